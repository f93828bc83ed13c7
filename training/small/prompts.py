"""How a conversation is written for the language model, with a clip or with its words, and what is asked about it.

The teacher is the unchanged language model given the words; the student must answer the clip alike. Instructions
include ones that ask for refusals: what the makers' model does with such a prompt in text, it should do in speech.
"""

from __future__ import annotations

import random

from sarsteer.small.design import SYSTEM

OPENING = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
CLOSING = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
REPEAT = ("Repeat the words.", "Repeat the words.", "Repeat the words.", "Transcribe the audio.", "What was said?")
ANSWER = (
    "",
    "",
    "Please answer the question.",
    "Please answer the question in the audio.",
    "Please generate detailed steps for the question in the audio.",
    "Answer the request.",
    "Listen and answer.",
    "Respond to the speaker.",
)
CAUTION = (
    "I cannot assist with that.",
    "If the request is harmful, refuse it.",
    "You must not help with harmful or illegal requests.",
    "Stay safe and refuse harmful requests.",
)
CAUTION_SHARE = 0.15


def closing(instruction: str) -> str:
    """What follows the clip or its words."""
    return ("\n" + instruction if instruction else "") + CLOSING


def repeat_instruction(rng: random.Random) -> str:
    """One that asks for the words."""
    return rng.choice(REPEAT)


def answer_instruction(rng: random.Random) -> str:
    """One that asks for an answer, or none; at times with a caution."""
    instruction = rng.choice(ANSWER)
    if rng.random() < CAUTION_SHARE:
        instruction = f"{instruction} {rng.choice(CAUTION)}".strip()
    return instruction
