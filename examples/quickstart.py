"""Calibrate the embedded model, and answer a harmful request and its safe twin: python examples/quickstart.py"""

import sarsteer

model = sarsteer.load_model("sarsteer-tiny")
pairs = sarsteer.load_pairs("sarsteer-tiny")
steering = sarsteer.calibrate(model, pairs)

held_out = sarsteer.load_pairs("sarsteer-tiny", split="test")[0]
for item in (held_out.harmful, held_out.safe):
    request = sarsteer.user_turn(item.audio, "Please answer the question in the audio.")
    print(f"{item.label:8} {item.question}")
    print("  undefended:", model.generate([request])[0])
    with steering.on(model, alpha=0.1, k=5):
        print("  defended:  ", model.generate([request])[0])
