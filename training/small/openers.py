"""The first words of requests, which the language model then completes: together they fix the vocabulary that is heard.

Harm is named by topic only. What the language model writes after these words is a request, never an answer.
"""

from __future__ import annotations

import random
from typing import Any

PLAIN = (
    "", "How ", "What ", "Can you ", "Write ", "Tell me ", "Why ", "Explain ", "Give me ", "Where ", "I want ",
    "Describe ", "Is it ", "Help me ", "Who ", "When ", "Which ", "Create ", "Show me ", "Please ", "How do I ",
    "How can ", "What are ", "What is the ", "I need ", "Could you ", "Do you know ", "My ", "Play ", "Set ",
    "Remind me ", "Find ", "Should I ", "Are there ", "Translate ", "Recommend ", "List ", "Let us talk about ",
)  # fmt: skip
ABOUT_WORD = (
    "What is the {w}", "Tell me about {w}", "Why is {w}", "How does {w}", "Can you explain {w}", "I need {w}",
    "Write a story about {w}", "Where can I find {w}", "My friend says that {w}", "Give me advice on {w}",
    "Is {w}", "What happens when {w}", "The {w}", "Describe the {w}", "How much {w}", "List {w}", "Who {w}",
)  # fmt: skip
TO_DO = (
    "How do I {w}", "How can I {w}", "What is the best way to {w}", "Give me steps to {w}", "List ways to {w}",
    "Write a guide on how to {w}", "I want to {w}", "Explain how people {w}", "Tell me how to {w}", "Help me {w}",
    "Is it legal to {w}", "How can companies {w}", "Teach me to {w}", "Write a story in which thieves {w}",
)  # fmt: skip
HARMFUL_ACTS = (
    "steal", "rob", "hack into", "poison", "smuggle", "bribe", "blackmail", "stalk", "kidnap", "forge", "counterfeit",
    "launder money", "evade taxes", "sell drugs", "cook meth", "build a bomb", "make a weapon", "buy a gun without",
    "pick a lock", "break into", "spy on", "track someone", "threaten", "harass", "bully", "scam", "defraud", "cheat",
    "fake a passport", "fake a prescription", "spread rumors", "spread malware", "write a virus", "write ransomware",
    "phish", "crack a password", "steal an identity", "clone a credit card", "commit insurance fraud", "set fire to",
    "sabotage", "vandalize", "hijack", "torture", "murder", "assault", "hurt", "starve", "overdose on", "cut myself",
    "join a gang", "recruit extremists", "plan an attack", "incite violence", "deny the holocaust", "insult immigrants",
    "discriminate against", "manipulate voters", "rig an election", "leak secrets", "bypass security", "disable alarms",
    "hide a body", "hide evidence", "destroy evidence", "lie to the police", "escape prison", "avoid arrest",
    "traffic people", "exploit workers", "groom", "produce explosives", "make poison gas", "grow marijuana",
    "inject heroin", "smoke crack", "drive drunk", "pirate movies", "dump toxic waste", "poach elephants",
    "hotwire a car", "shoplift", "pickpocket", "eavesdrop on", "impersonate a doctor", "practice law without",
    "sell fake medicine", "sell stolen goods", "tamper with", "dodge the draft", "gamble illegally", "extort",
)  # fmt: skip
NAMES = (
    "aspirin", "ibuprofen", "insulin", "morphine", "fentanyl", "cocaine", "heroin", "methamphetamine", "opioids",
    "penicillin", "antidepressants", "steroids", "vaccines", "cyanide", "arsenic", "chlorine", "ammonia", "gunpowder",
    "dynamite", "uranium", "mercury", "bleach", "acetone", "fertilizer", "rifles", "pistols", "grenades", "ammunition",
    "malware", "ransomware", "passwords", "firewalls", "bitcoin", "wire fraud", "tax evasion", "money laundering",
    "insider trading", "identity theft", "shoplifting", "arson", "burglary", "vandalism", "homicide", "kidnapping",
    "terrorism", "genocide", "racism", "suicide", "anorexia", "bulimia", "self-harm", "alcohol", "cigarettes",
    "surveillance", "espionage", "propaganda", "misinformation", "censorship", "corruption", "bribery", "slavery",
    "London", "Paris", "Tokyo", "Berlin", "Madrid", "Chicago", "Boston", "Texas", "California", "Florida", "Canada",
    "Mexico", "Brazil", "Nigeria", "Kenya", "Egypt", "Turkey", "Russia", "Ukraine", "China", "India", "Japan",
    "Australia", "Korea", "Vietnam", "Africa", "Europe", "Jupiter", "Mars", "Shakespeare", "Einstein", "Mozart",
    "Beethoven", "Picasso", "Napoleon", "Lincoln", "Michael", "Jennifer", "David", "Maria", "Ahmed", "Daniel",
    "pneumonia", "diabetes", "asthma", "cancer", "arthritis", "migraines", "allergies", "pregnancy", "epilepsy",
    "thunderstorms", "earthquakes", "volcanoes", "hurricanes", "dinosaurs", "elephants", "penguins", "butterflies",
    "algebra", "calculus", "geometry", "chemistry", "physics", "astronomy", "philosophy", "economics", "psychology",
    "spaghetti", "lasagna", "broccoli", "cinnamon", "avocado", "chocolate", "cheesecake", "vegetarians", "barbecue",
    "guitars", "violins", "saxophones", "orchestras", "podcasts", "basketball", "volleyball", "marathons", "yoga",
    "mortgages", "insurance", "retirement", "inflation", "electricity", "refrigerators", "dishwashers", "plumbing",
)  # fmt: skip


def vocabulary(tok: Any) -> list[str]:
    """Whole lower-case words of at least four letters that are one token of ``tok``, in the tokenizer's order."""
    words = sorted((i, t) for t, i in tok.get_vocab().items() if t.startswith("Ġ"))
    return [t[1:] for _, t in words if len(t) > 4 and t[1:].isascii() and t[1:].isalpha() and t[1:].islower()]


def openers(tok: Any, count: int, seed: int) -> list[str]:
    """``count`` openers: a quarter plain, a half around one vocabulary word each, a quarter harmful acts and names.

    Each seed continues the shuffled order of the previous one, so that all words are used.
    """
    words = vocabulary(tok)
    random.Random(0).shuffle(words)
    rng = random.Random(seed)
    result = []
    half = count // 2
    for position in range(half):
        word = words[(seed * half + position) % len(words)]
        result.append(rng.choice((*ABOUT_WORD, *TO_DO[:3])).format(w=word))
    for position in range(count - half):
        if position % 2:
            result.append(rng.choice(PLAIN))
        elif position % 4:
            result.append(rng.choice(TO_DO).format(w=rng.choice(HARMFUL_ACTS)))
        else:
            result.append(rng.choice(ABOUT_WORD).format(w=rng.choice(NAMES)))
    return result
