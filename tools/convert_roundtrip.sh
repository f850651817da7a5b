#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Loads what `llava convert` writes with the Python reference. Makes two Python environments in
# FOLDER (about 5 GB; Python 3.11, network access) and runs tools/convert_roundtrip.py in them.
#
#   tools/convert_roundtrip.sh BUILD/cli/llava REFERENCE LLAVA_NEXT FOLDER
#
# REFERENCE is the recorded data, LLAVA_NEXT a checkout of LLaVA-NeXT at df17966; S2WRAPPER may name
# one of scaling_on_scales at 9c008a3, without which the S2 tower's case fails.
set -eu
llava=$1 reference=$2 next=$3 folder=$4
here=$(cd "$(dirname "$0")" && pwd)
python=$folder/reference/bin/python
mkdir -p "$folder"
if [ ! -x "$python" ]; then
    python3 -m venv "$folder/reference"
    "$python" -m pip install --quiet torch==2.3.1 'numpy<2' transformers==4.40.0 \
        tokenizers==0.19.1 peft==0.10.0 accelerate==0.29.3 safetensors==0.4.3 \
        huggingface_hub==0.22.2 pillow==10.3.0 sentencepiece protobuf einops timm requests
    "$python" -m pip install --quiet --no-deps --target "$folder/hf" transformers==4.45.2 \
        tokenizers==0.20.3 huggingface_hub==0.25.2
    "$python" -m pip install --quiet --no-deps --target "$folder/quant" transformers==4.57.6 \
        tokenizers==0.22.1 huggingface_hub==0.35.3 hf-xet accelerate==1.10.1 safetensors==0.6.2 \
        bitsandbytes==0.49.2
fi
status=0
"$python" -W ignore "$here/convert_roundtrip.py" original --llava "$llava" \
    --reference "$reference" --llava-next "$next" || status=1
PYTHONPATH=$folder/hf "$python" -W ignore "$here/convert_roundtrip.py" hf --llava "$llava" \
    --reference "$reference" || status=1
PYTHONPATH=$folder/quant "$python" -W ignore "$here/convert_roundtrip.py" quant --llava "$llava" \
    --reference "$reference" || status=1
exit $status
