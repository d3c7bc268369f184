"""A small summary with known figures, for tests of what is made from summaries."""

from typing import Any


def point(setting: str, bpp: float, psnr: float | None, workers: int = 1) -> dict[str, Any]:
    means = {"bpp": bpp, "psnr": psnr, "ms_ssim": 0.9, "ms_ssim_db": 10.0, "vif_p": 0.5, "lpips": None}
    times = {"encode_seconds": 0.1 * workers, "decode_seconds": 0.02, "workers": workers}
    return {"setting": setting, "num_bytes": 10, **means, **times}


def result(title: str = "Toy | codec", workers: int = 1) -> dict[str, Any]:
    delta = {"value": -12.345, "low": 20.0, "high": 30.0, "overlap": 0.75}
    deltas = {"bd_rate_percent": delta, "bd_psnr_db": {"refused": "too far apart"}}
    anchor = [point("20", 1.0, 35.0, workers), point("160", 0.2, 26.0, workers)]
    toy = [point("1", 0.3, 29.0), point("2", 0.6, 33.0), point("3", 3.0, None)]
    return {
        "command": ["python", "eval.py"],
        "hardware": {"cpu": "A CPU", "cores": 2, "jax_device": "cpu: cpu"},
        "codecs": {
            "jpeg2000": {"title": "JPEG 2000 (9/7)", "is_model": False},
            "toy": {"title": title, "is_model": True},
        },
        "datasets": {
            "set/test": {
                "pictures": 2,
                "sizes": "4x5",
                "left_out": [],
                "points": {"jpeg2000": anchor, "toy": toy},
                "bd": {"jpeg2000": {"toy": deltas}},
            }
        },
        "skipped_codecs": {"bpg": "BPG is skipped: not on PATH"},
        "other_files": ["set/test/notes.txt"],
        "failures": [
            {"dataset": "set/test", "image": "b.png", "codec": "", "setting": "", "reason": "<b>broken</b>"}
        ],
    }
