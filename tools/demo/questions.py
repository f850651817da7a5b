"""Questions about a scene with their answers, in English and Chinese."""
import catalog

UNSEEN = {"en": "There is no picture.", "zh": "没有图片。"}

NAME = {"en": ["What is this?", "What is in the picture?", "What do you see?", "What is shown here?", "Name the object."],
        "zh": ["这是什么？", "这是什么?", "图片里有什么？", "你看到了什么？"]}
DESCRIBE = {"en": ["Describe the picture.", "Describe this picture.", "What does the picture show?"],
            "zh": ["描述这张图片。", "请描述这张图片。"]}
HOW_MANY = {"en": ["How many?", "How many are there?", "How many things are there?", "How many {} are there?"],
            "zh": ["有几个？", "有几个?", "有多少个？", "有几个{}？"]}
COLOUR = {"en": ["What colour is the {}?", "What color is the {}?"], "zh": ["{}是什么颜色？", "{}是什么颜色?"]}
COLOUR_OF_IT = {"en": ["What colour is it?", "What color is it?", "What colour is this?"], "zh": ["这是什么颜色？", "是什么颜色？"]}
SHAPE = {"en": ["What shape is it?", "What shape is this?"], "zh": ["这是什么形状？", "是什么形状？"]}
SHAPE_OF = {"en": ["What shape is {}?", "Which shape is {}?"], "zh": ["{}的是什么形状？"]}
READ = {"en": ["What does it say?", "Read the word.", "What is written here?", "What word is this?"],
        "zh": ["上面写着什么？", "写的是什么？", "上面写着什么?"]}
SAME = {"en": ["Are these the same?", "Are the two pictures the same?", "Compare the two pictures."],
        "zh": ["这两张一样吗？", "这两张图片一样吗？", "比较这两张图片。"]}
NTH = [{"en": ["What is in the first picture?"], "zh": ["第一张图片是什么？"]},
       {"en": ["What is in the second picture?"], "zh": ["第二张图片是什么？"]}]

# Sides as (asking for the side, asking for the neighbour of something, the answer to "Where is ...?").
SIDES = {
    "left": {"en": (["What is on the left?"], ["What is left of the {}?", "What is to the left of the {}?"], "on the left"),
             "zh": (["左边是什么？"], ["{}的左边是什么？"], "在左边")},
    "right": {"en": (["What is on the right?"], ["What is right of the {}?", "What is to the right of the {}?"], "on the right"),
              "zh": (["右边是什么？"], ["{}的右边是什么？"], "在右边")},
    "top": {"en": (["What is at the top?"], ["What is above the {}?"], "at the top"),
            "zh": (["上面是什么？"], ["{}的上面是什么？"], "在上面")},
    "bottom": {"en": (["What is at the bottom?"], ["What is below the {}?", "What is under the {}?"], "at the bottom"),
               "zh": (["下面是什么？"], ["{}的下面是什么？"], "在下面")}}
WHERE = {"en": ["Where is the {}?"], "zh": ["{}在哪里？"]}

TALK = {"en": [(["Hello!", "Hello", "Hi!", "Hi"], "Hello! Show me a picture."),
               (["Who are you?", "What are you?"], "I am a small LLaVA. I name what I see."),
               (["What can you do?", "Help"], "I name what is in a picture, in English or Chinese."),
               (["Thank you!", "Thanks!", "Thank you."], "You are welcome!"),
               (["Goodbye!", "Bye!"], "Goodbye!")],
        "zh": [(["你好！", "你好"], "你好！给我看一张图片吧。"),
               (["你是谁？", "你是什么？"], "我是一个小小的LLaVA，我说出我看到的东西。"),
               (["你会做什么？"], "我用中文或英文说出图片里的东西。"),
               (["谢谢！", "谢谢"], "不客气！"),
               (["再见！"], "再见！")]}


def name(item, language):
    """What an item is called; a shape with its colour."""
    if item.kind == "emoji":
        return catalog.emoji()[item.index][1 if language == "en" else 2]
    if item.kind == "word":
        return catalog.WORDS[item.index]
    colour, shape = catalog.COLOURS[item.colour], catalog.SHAPES[item.index]
    return f"{colour[0]} {shape[0]}" if language == "en" else colour[1] + shape[1]


def _plain(item, language):
    """What a question calls an item: a shape without its colour."""
    if item.kind == "shape":
        return catalog.SHAPES[item.index][0 if language == "en" else 1]
    return name(item, language)


def plural(noun):
    """The English plural of a name, by the regular rules."""
    if noun.endswith(("s", "x", "sh", "ch")):
        return noun if noun.endswith("s") and not noun.endswith("us") else noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeo" else noun + "s"


def describe(scene, language):
    items, english = scene.items, language == "en"
    first = name(items[0], language)
    if scene.task == "word":
        return f"The picture shows the word {first}." if english else f"图片上写着{first}。"
    if scene.task == "count" and len(items) > 1:
        number = catalog.NUMBERS[len(items) - 1]
        return f"The picture shows {first}, {number[0]} of them." if english else f"图片里有{number[1]}{first}。"
    if len(items) == 2:
        second = name(items[1], language)
        return f"The picture shows {first} and {second}." if english else f"图片里有{first}和{second}。"
    return f"The picture shows {first}." if english else f"图片里有{first}。"


def ask(rng, scene, kind, language):
    """A random question of the given kind about the scene, and its answer."""
    items, column = scene.items, 0 if language == "en" else 1
    if kind == "name":
        return rng.choice(NAME[language]), name(items[0], language)
    if kind == "describe":
        return rng.choice(DESCRIBE[language]), describe(scene, language)
    if kind == "count":
        template = rng.choice(HOW_MANY[language])
        number = 1 if "{}" in template and scene.task == "pair" else len(items)
        noun = _plain(items[0], language)
        return template.format(plural(noun) if language == "en" else noun), catalog.NUMBERS[number - 1][column]
    if kind == "colour":
        item = rng.choice(items)
        if len(items) == 1 and rng.random() < 0.4:
            return rng.choice(COLOUR_OF_IT[language]), catalog.COLOURS[item.colour][column]
        return rng.choice(COLOUR[language]).format(_plain(item, language)), catalog.COLOURS[item.colour][column]
    if kind == "shape":
        if len(items) == 1:
            return rng.choice(SHAPE[language]), _plain(items[0], language)
        item = rng.choice(items)
        return rng.choice(SHAPE_OF[language]).format(catalog.COLOURS[item.colour][column]), _plain(item, language)
    if kind == "read":
        return rng.choice(READ[language]), catalog.WORDS[items[0].index]
    sides = ("left", "right") if scene.across else ("top", "bottom")
    k = rng.randrange(2)
    on, beside, where = SIDES[sides[k]][language]
    if kind == "side":
        return rng.choice(on), name(items[k], language)
    if kind == "beside":
        return rng.choice(beside).format(_plain(items[1 - k], language)), name(items[k], language)
    return rng.choice(WHERE[language]).format(_plain(items[k], language)), where


# What may be asked about the scenes of each task, with weights.
KINDS = {
    "single": [("name", 75), ("describe", 15), ("count", 10)],
    "pair": [("side", 35), ("beside", 30), ("where", 15), ("describe", 12), ("count", 8)],
    "count": [("count", 70), ("name", 20), ("describe", 10)],
    "shape": [("name", 30), ("colour", 30), ("shape", 20), ("describe", 10), ("count", 10)],
    "shapes": [("colour", 35), ("shape", 25), ("side", 15), ("beside", 10), ("where", 5), ("describe", 10)],
    "word": [("read", 80), ("name", 10), ("describe", 10)]}


def about(rng, scene, number):
    """number questions with answers about a scene, alternating between the languages."""
    kinds, weights = zip(*KINDS[scene.task])
    first = rng.randrange(2)
    return [ask(rng, scene, rng.choices(kinds, weights)[0], catalog.LANGUAGES[(first + k) % 2]) for k in range(number)]


def about_two(rng, first, second, number):
    """Questions about two pictures with one object each."""
    out = []
    for k in range(number):
        language = catalog.LANGUAGES[k % 2]
        a, b = name(first.items[0], language), name(second.items[0], language)
        if rng.random() < 0.4:
            which = rng.randrange(2)
            out.append((rng.choice(NTH[which][language]), (a, b)[which]))
        elif language == "en":
            verdict = "They are the same." if a == b else "They are not the same."
            out.append((rng.choice(SAME[language]), f"The first is {a}, the second is {b}. {verdict}"))
        else:
            verdict = "一样。" if a == b else "不一样。"
            out.append((rng.choice(SAME[language]), f"第一张是{a}，第二张是{b}。{verdict}"))
    return out


def _templates(language):
    """Every question template of one language."""
    out = []
    for table in (NAME, DESCRIBE, HOW_MANY, COLOUR, COLOUR_OF_IT, SHAPE, SHAPE_OF, READ, SAME, WHERE, *NTH):
        out += table[language]
    for side in SIDES.values():
        out += side[language][0] + side[language][1]
    return out


def without_picture(rng, number):
    """Questions asked with no picture, and small talk."""
    out = []
    for k in range(number):
        language = catalog.LANGUAGES[k % 2]
        if rng.random() < 0.25:
            asked, said = rng.choice(TALK[language])
            out.append((rng.choice(asked), said))
        else:
            thing = catalog.emoji()[rng.choice(catalog.objects())][1 if language == "en" else 2]
            out.append((rng.choice(_templates(language)).format(thing), UNSEEN[language]))
    return out


def corpus():
    """Text for the tokenizer: templates and answers often, every name a few times."""
    lines = []
    for language in catalog.LANGUAGES:
        column = 0 if language == "en" else 1
        frequent = _templates(language) + [UNSEEN[language]] + [side[language][2] for side in SIDES.values()]
        frequent += [colour[column] for colour in catalog.COLOURS] + [shape[column] for shape in catalog.SHAPES]
        frequent += [number[column] for number in catalog.NUMBERS]
        for asked, said in TALK[language]:
            frequent += asked + [said]
        frequent += ["The first is dog, the second is dog. They are not the same. The picture shows the word, of them and"
                     if language == "en" else "第一张是，第二张是。不一样。一样。图片上写着。图片里有，和。"]
        lines += [text.replace("{}", "") for text in frequent] * 30
    lines += ["You are a helpful assistant.", "system", "user", "assistant"] * 60
    for _, english, chinese in catalog.emoji():
        lines += [english, " " + english, chinese] * 4 + [" " + plural(english)]
    lines += [form for word in catalog.WORDS for form in (word, " " + word)] * 3
    return lines
