"""Defend a program that already uses transformers, with one line: python examples/bare_transformers.py

It loads the embedded model with transformers. For another model, change the names.
"""

import soundfile
import torch
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

import sarsteer
from sarsteer import tiny

folder = tiny.model_folder()
model = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
processor = AutoProcessor.from_pretrained(folder)

# Usually calibrated once and loaded with sarsteer.Steering.load.
pairs = sarsteer.load_pairs("sarsteer-tiny")
steering = sarsteer.calibrate(sarsteer.AudioLanguageModel(model, processor), pairs)

clip, _ = soundfile.read(sarsteer.load_pairs("sarsteer-tiny", "test")[0].harmful.audio, dtype="float32")
text = "Please generate detailed steps for the question in the audio."
turn = [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": text}]}]
inputs = processor.apply_chat_template(
    turn, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
inputs.pop("num_audio_tokens", None)

steering.attach(model, alpha=0.1, k=5)  # the one line

tokens = model.generate(**inputs, max_new_tokens=48, do_sample=False)
print(processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
