"""Run inside a WebUI: what it makes of a small checkpoint in any file, for comparison with another host."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from support.webui_inside import start_with


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    options = parser.parse_args()
    start_with(options.file, options.data)
    from safetensors.torch import load_file, save_file

    from celeb_basis.hosts.a1111.host import A1111Host

    given = load_file(str(options.inputs))
    model = A1111Host()
    with torch.no_grad():
        conditioning = model.encode_prompts(["a photo of <v> person"], {"<v>": [given["vectors"]]})
        predicted = model.predict(given["latents"], given["timesteps"], conditioning)
        mean = model.encode_images(given["pictures"]).mean
    answer = {"states": conditioning.crossattn, "predicted": predicted, "mean": mean}
    save_file(
        {key: value.float().contiguous() for key, value in answer.items()}, str(options.data / "answer.safetensors")
    )
    found = {
        "family": model.info.family,
        "size_multiple": model.info.size_multiple,
        "prediction": model.schedule.prediction,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
