# SPDX-License-Identifier: Apache-2.0
"""A whole question to a peer: JPEG to tiles, tower, projector, prompt up to the first token, then
some more tokens. Parts of the stage `question` of worker.py.

A loader warms its program up on a picture of one tile and returns (run, about). run(request)
answers {"ms": to the first token, "token_ms": each of size - 1 further ones, "tokens": of the
prompt with its picture, "tiles": ..., "tower_ms": ...}; a request has "size" and "tokens", the
prompt's length in llava. transformers checks it against the features that it makes, llama.cpp is
cut to it, GenAI makes its own.
"""
import io
import itertools
import os
import tempfile
import time

WIDTH, HEIGHT = 1280, 720
BEFORE, AFTER = 40, 20  # tokens of text around the picture, 60 as in llava bench
IMAGE_TOKEN = 7


def make_picture(width, height):
    """A JPEG of smooth shapes and some noise, which costs what a photograph costs."""
    import numpy
    from PIL import Image
    y, x = numpy.mgrid[0:height, 0:width].astype("f4")
    rgb = numpy.stack([127 + 60 * numpy.sin(x / a) + 50 * numpy.cos(y / b)
                       for a, b in ((91, 57), (43, 130), (210, 31))], -1)
    rgb += numpy.random.default_rng(3).normal(0, 6, rgb.shape)
    data = io.BytesIO()
    Image.fromarray(rgb.clip(0, 255).astype("u1")).save(data, "JPEG", quality=90)
    return data.getvalue()


def picture_bytes():
    with open(os.environ["PEER_PICTURE"], "rb") as f:
        return f.read()


def text_tokens():
    import numpy
    return numpy.random.default_rng(5).integers(1000, 30000, BEFORE + AFTER)


def pinpoints(shape, side):
    """[width, height] of each grid; the range (1x1),...,(6x6) is spelled out."""
    given = shape["image_grid_pinpoints"]
    if isinstance(given, list):
        return given
    return [[side * i, side * j] for i in range(1, 7) for j in range(1, 7)]


# ------------------------------------------------------------------------------ transformers


def text_config(transformers, shape):
    qwen = "Qwen" in shape["architectures"][0]
    return (transformers.Qwen2Config if qwen else transformers.LlamaConfig)(
        rope_theta=shape.get("rope_theta", 10000.0),
        **{k: shape[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers",
                                 "num_attention_heads", "num_key_value_heads", "vocab_size",
                                 "max_position_embeddings", "rms_norm_eps",
                                 "tie_word_embeddings")})


def make_config(transformers, shape, tower):
    """LLaVA-NeXT for a CLIP tower, OneVision for a SigLIP one."""
    d, inner, layers, heads, side, patch, clip = tower
    # OneVision takes the last layer's result; LLaVA-NeXT runs a last layer and drops it
    vision = {"image_size": side, "patch_size": patch, "hidden_size": d,
              "intermediate_size": inner, "num_attention_heads": heads,
              "num_hidden_layers": layers + int(clip)}
    common = {"text_config": text_config(transformers, shape), "image_token_index": IMAGE_TOKEN,
              "image_grid_pinpoints": [[h, w] for w, h in pinpoints(shape, side)],
              "tie_word_embeddings": shape["tie_word_embeddings"]}
    if clip:
        return transformers.LlavaNextConfig(
            vision_config=transformers.CLIPVisionConfig(**vision), **common)
    return transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **vision), **common)


def make_processor(transformers, config):
    side, grid = config.vision_config.image_size, config.image_grid_pinpoints
    if config.model_type == "llava_next":
        return transformers.LlavaNextImageProcessor(
            image_grid_pinpoints=grid, size={"shortest_edge": side},
            crop_size={"height": side, "width": side})
    return transformers.LlavaOnevisionImageProcessor(image_grid_pinpoints=grid)


def make_model(torch, transformers, config, dtype):
    kind = ("LlavaNext" if config.model_type == "llava_next" else "LlavaOnevision")
    torch.set_default_dtype(getattr(torch, dtype))
    model = getattr(transformers, kind + "ForConditionalGeneration")(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def watch_tower(model):
    """Milliseconds of the tower's and the projector's last calls, by name."""
    inner, spent, begun = model.model, {}, {}
    for name in ("vision_tower", "multi_modal_projector"):
        def start(*_, name=name):
            begun[name] = time.perf_counter()

        def stop(*_, name=name):
            spent[name] = 1e3 * (time.perf_counter() - begun[name])
        getattr(inner, name).register_forward_pre_hook(start)
        getattr(inner, name).register_forward_hook(stop)
    return spent


def transformers_question(torch, shape, tower, dtype):
    import transformers
    from PIL import Image
    config = make_config(transformers, shape, tower)
    model = make_model(torch, transformers, config, dtype)
    processor = make_processor(transformers, config)
    spent, text = watch_tower(model), text_tokens()

    class Clock(transformers.LogitsProcessor):
        def __call__(self, ids, scores):
            self.times.append(time.perf_counter())
            scores[:, IMAGE_TOKEN] = -float("inf")  # random weights might choose it
            return scores

    clock = Clock()

    def see(jpeg):
        inputs = processor(images=Image.open(io.BytesIO(jpeg)).convert("RGB"), return_tensors="pt")
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        return inputs

    def ask(jpeg, n, n_visual):
        ids = torch.tensor([[*text[:BEFORE], *[IMAGE_TOKEN] * n_visual, *text[BEFORE:]]])
        clock.times = []
        start = time.perf_counter()
        inputs = see(jpeg)
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n,
                       min_new_tokens=n, do_sample=False, use_cache=True, pad_token_id=0,
                       logits_processor=transformers.LogitsProcessorList([clock]), **inputs)
        times = clock.times
        return {"ms": 1e3 * (times[0] - start), "tower_ms": sum(spent.values()),
                "token_ms": 1e3 * (times[-1] - times[0]) / (n - 1), "tokens": ids.shape[1],
                "tiles": inputs["pixel_values"].shape[1]}

    small, jpeg = make_picture(tower[4], tower[4]), picture_bytes()
    features = model.get_image_features(**{k: v for k, v in see(small).items()
                                           if k in ("pixel_values", "image_sizes")})
    features = getattr(features, "pooler_output", features)
    ask(small, 2, sum(f.reshape(-1, shape["hidden_size"]).shape[0] for f in features))
    return (lambda r: ask(jpeg, r["size"], r["tokens"] - BEFORE - AFTER),
            f"transformers {transformers.__version__}, torch {torch.__version__}")


# ------------------------------------------------------------------------------ llama.cpp


class LlamaCpp:
    """mtmd and libllama through llama-cpp-python's bindings of their C interfaces."""

    def __init__(self, language, vision, threads, n_context):
        import ctypes
        import sys
        import llama_cpp
        from llama_cpp import mtmd_cpp
        self.c, self.lc, self.mtmd = ctypes, llama_cpp, mtmd_cpp
        self.log = llama_cpp.llama_log_callback(  # errors alone
            lambda level, line, _: sys.stderr.buffer.write(line) if level >= 4 else None)
        llama_cpp.llama_log_set(self.log, None)
        mtmd_cpp.mtmd_helper_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            language.encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = n_context
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        options = mtmd_cpp.mtmd_context_params_default()
        options.use_gpu, options.n_threads, options.print_timings = False, threads, False
        self.vision = mtmd_cpp.mtmd_init_from_file(vision.encode(), self.model, options)
        if not (self.model and self.context and self.vision):
            raise SystemExit("llama.cpp does not load the files")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.width = llama_cpp.llama_model_n_embd(self.model)

    def clear(self):
        self.lc.llama_memory_clear(self.lc.llama_get_memory(self.context), True)

    def decode(self, batch):
        if self.lc.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode fails")

    def feed_features(self, features):
        pointer = features.ctypes.data_as(self.c.POINTER(self.c.c_float))
        self.decode(self.lc.llama_batch(n_tokens=len(features), embd=pointer))

    def feed(self, tokens):
        """The likeliest next token."""
        import numpy
        a = numpy.ascontiguousarray(tokens, dtype="i4")
        self.decode(self.lc.llama_batch_get_one(
            a.ctypes.data_as(self.c.POINTER(self.c.c_int32)), len(a)))
        logits = self.lc.llama_get_logits_ith(self.context, -1)
        logits = numpy.ctypeslib.as_array(logits, (self.vocab,))
        if not numpy.isfinite(logits).all():
            raise SystemExit("llama.cpp's logits are not finite")
        return int(logits.argmax())

    def look(self, jpeg):
        """(tiles, their features as one array, seconds in tower and projector)"""
        import numpy
        m, c = self.mtmd, self.c
        raw = (c.c_uint8 * len(jpeg)).from_buffer_copy(jpeg)
        bitmap = m.mtmd_helper_bitmap_init_from_buf(self.vision, raw, len(jpeg), False)
        chunks = m.mtmd_input_chunks_init()
        parts = (c.POINTER(m.mtmd_input_part) * 1)(
            c.pointer(m.mtmd_input_part(text=None, bitmap=bitmap)))
        if m.mtmd_tokenize_from_parts(self.vision, chunks, parts, 1, False) != 0:
            raise SystemExit("mtmd does not take the picture")
        features, seconds = [], 0.0
        for i in range(m.mtmd_input_chunks_size(chunks)):
            chunk = m.mtmd_input_chunks_get(chunks, i)
            start = time.perf_counter()
            if m.mtmd_encode_chunk(self.vision, chunk) != 0:
                raise SystemExit("mtmd fails on a tile")
            seconds += time.perf_counter() - start
            n = m.mtmd_input_chunk_get_n_tokens(chunk)
            made = m.mtmd_get_output_embd(self.vision)
            features.append(numpy.ctypeslib.as_array(made, (n, self.width)).copy())
        m.mtmd_input_chunks_free(chunks)
        m.mtmd_bitmap_free(bitmap)
        return len(features), numpy.concatenate(features), seconds


def llama_question(shape, tower, dtype, threads):
    """mtmd cuts the tiles and runs the tower. It has no unpadding for this projector and would
    feed all features of all tiles, which would be a longer prompt than the others': its first
    features are fed, as many as llava feeds, in one batch."""
    import gguf
    folder = tempfile.TemporaryDirectory()
    language = os.path.join(folder.name, "language.gguf")
    vision = os.path.join(folder.name, "vision.gguf")
    kind = {"bfloat16": gguf.BF16, "float32": gguf.F32}[dtype]
    gguf.write_language(language, shape, kind)
    gguf.write_vision(vision, tower, shape["hidden_size"], pinpoints(shape, tower[4]), kind)
    llama = LlamaCpp(language, vision, threads, 8192)
    text = text_tokens()

    def ask(jpeg, n, n_visual=None):
        llama.clear()
        start = time.perf_counter()
        llama.feed(text[:BEFORE])
        tiles, features, tower_s = llama.look(jpeg)
        if len(features) < (n_visual or 0):
            raise SystemExit(f"llama.cpp makes {len(features)} features, {n_visual} are needed")
        llama.feed_features(features[:n_visual])
        token = llama.feed(text[BEFORE:])
        first = time.perf_counter()
        for _ in range(n - 1):
            token = llama.feed([token])
        return {"ms": 1e3 * (first - start), "tower_ms": 1e3 * tower_s, "tiles": tiles,
                "token_ms": 1e3 * (time.perf_counter() - first) / (n - 1),
                "tokens": len(features[:n_visual]) + BEFORE + AFTER}

    ask(make_picture(tower[4], tower[4]), 2)
    jpeg = picture_bytes()

    def run(request):
        return ask(jpeg, request["size"], request["tokens"] - BEFORE - AFTER)
    run.folder = folder
    return run, "llama.cpp (llama-cpp-python " + llama.lc.__version__ + ")"


# ------------------------------------------------------------------------------ OpenVINO GenAI


def genai_question(shape, tower, path, dtype, threads):
    """VLMPipeline on an export of export_genai.py; it knows LLaVA-NeXT, not OneVision."""
    import subprocess
    import sys
    import numpy
    import openvino
    import openvino_genai
    from PIL import Image
    if "clip" not in shape["mm_vision_tower"]:
        raise SystemExit("OpenVINO GenAI has no pipeline for OneVision")
    folder = tempfile.TemporaryDirectory()
    export = os.environ["PEER_EXPORT"] or folder.name
    if not os.path.exists(os.path.join(export, "openvino_tokenizer.xml")):  # written last
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "export_genai.py")
        subprocess.run([os.environ["PEER_EXPORT_PYTHON"], script, path, export], check=True,
                       stdout=sys.stderr)
    pipeline = openvino_genai.VLMPipeline(
        export, "CPU", INFERENCE_NUM_THREADS=threads,
        INFERENCE_PRECISION_HINT={"bfloat16": "bf16", "float32": "f32"}[dtype])
    asked = itertools.count()

    def make_prompt():
        """Never the same beginning twice: the pipeline keeps what it has read of a prompt."""
        first = chr(ord("c") + next(asked) % 20)
        return first + "a" * (BEFORE - 1) + "<ov_genai_image_0>" + "b" * AFTER

    class Clock(openvino_genai.StreamerBase):
        def __init__(self):
            super().__init__()
            self.times = []

        def write(self, tokens):
            n = len(tokens) if isinstance(tokens, (list, tuple)) else 1
            self.times += [time.perf_counter()] * n
            return openvino_genai.StreamingStatus.RUNNING

        def end(self):
            pass

    def ask(jpeg, n):
        clock = Clock()
        options = openvino_genai.GenerationConfig()
        options.max_new_tokens = options.min_new_tokens = n
        options.do_sample, options.ignore_eos = False, True
        options.apply_chat_template = False
        start = time.perf_counter()
        image = numpy.array(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        result = pipeline.generate(make_prompt(), images=[openvino.Tensor(image[None])],
                                   generation_config=options, streamer=clock)
        times, metrics = clock.times, result.perf_metrics
        return {"ms": 1e3 * (times[0] - start),
                "tower_ms": metrics.get_prepare_embeddings_duration().mean,
                "token_ms": 1e3 * (times[-1] - times[0]) / (n - 1),
                "tokens": metrics.get_num_input_tokens(), "tiles": None}

    ask(make_picture(tower[4], tower[4]), 2)
    jpeg = picture_bytes()

    def run(request):
        return ask(jpeg, request["size"])
    run.folder = folder
    return run, "OpenVINO GenAI " + openvino_genai.__version__.split("-")[0]
