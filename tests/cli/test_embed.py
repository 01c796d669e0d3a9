"""``headstrip embed``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.cli.conftest import Run
from tests.cli.terminal import in_terminal
from tests.images.deep_images import tiff

from headstrip import build_encoder

NAME = "squeezenet1_1"
WeightsOf = Callable[[str], Path]


def test_bad_images_become_rows_appear_on_stderr_and_give_exit_code_1(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "out.parquet"
    result = run("embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", out)
    assert result.exit_code == 1
    assert result.stdout == (
        f"{out}: 4 rows, 2 of them with an embedding of 512 numbers by torchvision:{NAME}\n"
    )
    first, *bad = result.stderr.splitlines()
    assert first == "2 of 4 images could not be embedded:"
    assert bad[0].startswith("  notes.jpg: it is in none of the formats")
    assert bad[1].startswith("  torn.jpg: ")
    assert pq.read_table(out)["path"].to_pylist() == ["a.png", "notes.jpg", "torn.jpg", "z.png"]


def test_good_images_give_exit_code_0_and_the_embeddings_of_the_encoder(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "out.parquet"
    (photos / "torn.jpg").unlink()
    (photos / "notes.jpg").unlink()
    result = run(
        "embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", out, "--batch-size", 1
    )
    assert (result.exit_code, result.stderr) == (0, "")
    found = np.array(pq.read_table(out)["embedding"].to_pylist(), np.float32)
    encoder = build_encoder(NAME, weights=weights_of(NAME))
    expected = encoder.embed([photos / "a.png", photos / "z.png"], batch_size=1)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_json_names_the_file_and_every_bad_image(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "out.parquet"
    for number in range(7):
        (photos / f"bad{number}.png").touch()
    result = run("embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", out, "--json")
    report = json.loads(result.stdout)
    assert (report["out"], report["rows"], report["dim"]) == (str(out), 11, 512)
    assert [bad["path"] for bad in report["failed"]][:2] == ["bad0.png", "bad1.png"]
    assert len(report["failed"]) == 9
    assert report["identity"] == build_encoder(NAME, weights=weights_of(NAME)).fingerprint.identity
    assert (report["weights_file"], report["weights"]) == (
        Path(weights_of(NAME)).name,
        "IMAGENET1K_V1",
    )
    assert len(result.stderr.splitlines()) == 7
    assert result.stderr.endswith("and 4 more; the column `error` of the file has all of them.\n")


@pytest.mark.parametrize(
    ("folder", "name", "weights", "out", "message"),
    [
        ("none", NAME, "DEFAULT", "out.parquet", "There is no file"),
        ("empty", NAME, "DEFAULT", "out.parquet", "There is no image in"),
        ("photos", NAME, "DEFAULT", "none/out.parquet", "there is no folder"),
        ("photos", NAME, "NONE", "out.parquet", "has no weights 'NONE'"),
        ("photos", NAME, "none.pth", "out.parquet", "There is no weights file 'none.pth'"),
        ("photos", f"{NAME}.IMAGENET1K_V1", "a.pth", "out.parquet", "Leave one of them out"),
        ("photos", "nobody", "DEFAULT", "out.parquet", "There is no backbone 'nobody'"),
        ("photos", "r3d_18", "DEFAULT", "out.parquet", "takes video clips, but this command takes"),
    ],
)
def test_invalid_arguments_are_a_usage_error_before_any_work(
    run: Run,
    photos: Path,
    tmp_path: Path,
    folder: str,
    name: str,
    weights: str,
    out: str,
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    result = run("embed", tmp_path / folder, "-b", name, "--weights", weights, "-o", tmp_path / out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_maps_are_columns_and_their_size_is_on_stderr_first(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "out.parquet"
    line = ("embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", out, "--maps", "2,-1")
    result = run(*line)
    assert result.stdout.startswith(f"{out}: 4 rows, 2 of them with an embedding")
    assert result.stderr.startswith(
        "headstrip writes map_2 (256 x 27 x 27, float16), map_3 (512 x 13 x 13, float16): "
        "533.5 KiB per image, 2.1 MiB for 4 images, before compression.\n2 of 4 images could "
        "not be embedded:"
    )
    assert pq.read_table(out)["map_2"].null_count == 2
    before = out.read_bytes()
    assert "headstrip writes" not in run(*line).stderr
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--maps", "last"], "'last' must be numbers of levels, such as -1 or 2,-1."),
        (["--maps", "9"], "has no level 9: it has 4, numbered 0 to 3, or -4 to -1"),
        (["--tokens"], "has no tokens, but 4 feature maps: use --maps (maps=) with"),
        (["--maps", "-1", "--engine", "onnxruntime"], "'onnxruntime' gives embeddings only"),
    ],
)
def test_maps_that_do_not_exist_are_a_usage_error_before_any_work(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf, options: list[str], message: str
) -> None:
    out = tmp_path / "out.parquet"
    result = run("embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", out, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--maps", "0,-6"], "torchvision:resnet18 has no level -6: it has 5, numbered 0 to 4"),
        (["--maps", "12"], "512 at stride 32."),
        (["--tokens", "--engine", "compile"], "'compile' gives embeddings only"),
    ],
)
def test_maps_that_the_catalog_does_not_have_are_refused_before_weights_are_read(
    run: Run, photos: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "bad.pth").write_bytes(b"rubbish")
    line = ("embed", photos, "-b", "resnet18", "--weights", tmp_path / "bad.pth")
    result = run(*line, "-o", tmp_path / "out.parquet", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_calibrate_refuses_maps(run: Run, photos: Path) -> None:
    result = run("embed", photos, "-b", NAME, "--calibrate", "--tokens")
    assert result.exit_code == 2
    assert "--calibrate measures embeddings only. Leave out --maps" in result.stderr


def test_a_damaged_weights_file_gives_exit_code_1(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"rubbish")
    result = run(
        "embed", photos, "-b", NAME, "--weights", tmp_path / "bad.pth", "-o", tmp_path / "o.parquet"
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


@pytest.mark.filterwarnings("default")
def test_a_warning_is_printed_on_stderr_without_its_class(
    run: Run,
    photos: Path,
    tmp_path: Path,
    weights_of: WeightsOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headstrip.factory.measure.width_of_stripped", lambda *_: 7)
    result = run(
        "embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", tmp_path / "o.parquet"
    )
    assert "Warning: The catalog claims the width 512" in result.stderr
    assert "CatalogMismatchWarning" not in result.stderr


@pytest.mark.slow
def test_a_terminal_gets_a_progress_bar(
    photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    shown = in_terminal(
        "embed",
        str(photos),
        "-b",
        NAME,
        "--weights",
        str(weights_of(NAME)),
        "-o",
        str(tmp_path / "out.parquet"),
        columns=100,
    )
    assert "4/4" in shown
    assert "2 of 4 images could not be embedded" in shown


@pytest.mark.slow
def test_profile_and_calibrate_write_nothing(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    embed = ("embed", photos, "-b", NAME, "--weights", weights_of(NAME), "--img-size", 64)
    before = sorted(tmp_path.rglob("*"))
    result = run(*embed, "--profile", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["images"] == 4
    assert report["bottleneck"] in {"network", "decoding", "writing"}
    result = run(*embed, "--profile")
    assert "The bottleneck is the " in result.stdout
    calibrate = (*embed, "--calibrate", "--engine", "torch", "--precision", "fp32")
    result = run(*calibrate, "--json")
    (row,) = json.loads(result.stdout)
    assert (row["engine"], row["precision"]) == ("torch", "fp32")
    assert row["cosine_min"] > 0.99999
    assert row["decode_mode"] is None
    result = run(*calibrate, "--batch-size", "2")
    assert "within the tolerance: --batch-size 2 --threads 1 --engine torch" in result.stdout
    result = run(
        *calibrate, "--batch-size", "2", "--inference-threads", "3", "--decode-mode", "fast"
    )
    assert "batches of 2, 3 at once, threads per batch: 1" in result.stdout
    assert result.stdout.endswith(
        ": --batch-size 2 --threads 1 --engine torch --precision fp32 --inference-threads 3 "
        "--decode-mode fast\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Pass -o OUT to write embeddings"),
        (["--calibrate", "--profile"], "exactly one of -o OUT, --calibrate and --profile"),
        (["-o", "o.parquet", "--profile"], "exactly one of -o OUT, --calibrate and --profile"),
        (["-o", "o.parquet", "--address", "auto"], "Pass --on ray too, or leave out --address"),
    ],
)
def test_options_of_embed_that_do_not_go_together_are_a_usage_error(
    run: Run, photos: Path, options: list[str], message: str
) -> None:
    result = run("embed", photos, "-b", NAME, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_report_names_the_chosen_engine(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "out.parquet"
    line = ["embed", photos, "-b", NAME, "--weights", weights_of(NAME), "-o", out]
    line += ["--img-size", 64, "--workers", 0]
    result = run(*line, "--engine", "torch", "--precision", "auto")
    assert result.stderr.startswith("headstrip chose the engine torch in ")
    chosen = json.loads(pq.read_schema(out).metadata[b"headstrip"])["plan"]["settings"]
    assert chosen["precision"] in {"fp32", "bf16"}
    assert run(*line, "--engine", "auto", "--precision", "auto").exit_code == 1
    assert json.loads(pq.read_schema(out).metadata[b"headstrip"])["plan"]["settings"] == chosen


def test_a_manifest_can_be_the_backbone_and_other_versions_must_be_allowed(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    encoder = build_encoder(NAME, weights=weights_of(NAME))
    manifest = encoder.manifest()
    manifest["versions"]["torch"] = "2.0"
    file = tmp_path / "encoder.json"
    file.write_text(json.dumps(manifest))
    asked = ["embed", photos, "-b", file, "--weights", weights_of(NAME), "--json"]
    result = run(*asked, "-o", tmp_path / "out.parquet")
    assert result.exit_code == 2
    assert "versions.torch is '2.0' in the manifest" in result.stderr
    assert "(--allow-versions)" in result.stderr
    report = json.loads(run(*asked, "-o", tmp_path / "out.parquet", "--allow-versions").stdout)
    assert (report["rows"], report["identity"]) == (4, encoder.fingerprint.identity)


@pytest.mark.parametrize("device", ["cuda:77", "nowhere"])
def test_a_missing_device_gives_a_clear_error(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf, device: str
) -> None:
    result = run(
        "embed",
        photos,
        "-b",
        NAME,
        "--weights",
        weights_of(NAME),
        "-o",
        tmp_path / "out.parquet",
        "--device",
        device,
    )
    assert result.exit_code == 2
    assert f"device='{device}' cannot be used here" in result.stderr
    assert not list(tmp_path.glob("out*"))


def test_files_that_are_left_out_are_counted_on_stderr_and_in_json(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    for name in ("torn.jpg", "notes.jpg"):
        (photos / name).unlink()
    for name in ("a.jxl", "b.JXL", "scan", "notes.txt"):
        (photos / name).touch()
    line = (
        "embed",
        photos,
        "-b",
        NAME,
        "--weights",
        weights_of(NAME),
        "-o",
        tmp_path / "o.parquet",
    )
    (photos / "linked").symlink_to(tmp_path, target_is_directory=True)
    message = (
        "3 files were left out: 2 .jxl, 1 without a suffix. Images are known by their suffix. "
        "1 link to a folder was not followed. To follow one, name it in a pattern, such as "
        "'photos/{**,link/**}'.\n"
    )
    first, again = run(*line), run(*line, "--json")
    assert (first.exit_code, first.stderr) == (again.exit_code, again.stderr) == (0, message)
    assert json.loads(again.stdout)["left_out"] == {
        ".jxl": 2,
        "": 1,
        ".txt": 1,
        "links to folders": 1,
    }


def test_the_error_for_a_source_without_images_counts_its_other_files(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.jxl").touch()
    result = run("embed", tmp_path / "scans", "-b", NAME, "-o", tmp_path / "o.parquet")
    assert result.exit_code == 2
    assert "1 file was left out: 1 .jxl." in result.stderr


def test_a_listed_address_that_may_not_be_read_becomes_a_row_with_a_reason(
    run: Run, photos: Path, tmp_path: Path, weights_of: WeightsOf
) -> None:
    out = tmp_path / "o.parquet"
    (photos / "list.txt").write_text(
        "./a.png\nreference://x.png::data:,{}\nftp://127.0.0.1/x.png\n"
    )
    weights = weights_of(NAME)
    result = run("embed", photos / "list.txt", "-b", NAME, "--weights", weights, "-o", out)
    assert result.exit_code == 1
    found = dict(
        zip(*pq.read_table(out, columns=["path", "error"]).to_pydict().values(), strict=True)
    )
    assert found["./a.png"] is None
    assert found["reference://x.png::data:,{}"].startswith("headstrip does not read chained urls")
    assert found["ftp://127.0.0.1/x.png"].startswith("headstrip does not read 'ftp:' addresses.")


@pytest.mark.parametrize("pixels", [[], ["--value-range", "0,4095"]])
def test_16_bit_grey_tiffs_are_embedded_as_grey(
    run: Run, weights_of: WeightsOf, tmp_path: Path, pixels: list[str]
) -> None:
    """By default the range is that of the type, however little of it an image uses."""
    folder, name = tmp_path / "tiffs", "shufflenet_v2_x0_5"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 3000, (40, 50)).astype(np.uint16)
    Image.fromarray(values).save(folder / "one.tif")
    weights = weights_of(name)
    chosen = ["-b", name, "--weights", weights, "--in-chans", 1, "--img-size", "32x48"]
    result = run("embed", folder, *chosen, *pixels, "-o", tmp_path / "out.parquet", "--workers", 0)
    assert result.exit_code == 0, result.output
    found = np.array(pq.read_table(tmp_path / "out.parquet")["embedding"].to_pylist())
    encoder = build_encoder(name, weights=weights, in_chans=1, img_size=(32, 48))
    most = 4095 if pixels else 65535
    wanted = encoder.embed([np.rint(values / most * 255).astype(np.uint8)])
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("always::headstrip.WeightsWarning")
def test_images_of_five_bands_are_embedded_and_searched(
    run: Run, weights_of: WeightsOf, tmp_path: Path
) -> None:
    folder, name, out = tmp_path / "tiffs", "shufflenet_v2_x0_5", tmp_path / "out.parquet"
    folder.mkdir()
    for at in range(3):
        values = np.random.default_rng(at).integers(0, 256, (40, 50, 5)).astype(np.uint8)
        (folder / f"{at}.tif").write_bytes(tiff(values, photometric=1))
    weights = weights_of(name)
    chosen = ["-b", name, "--weights", f"IMAGENET1K_V1={weights}", "--img-size", 32]
    chosen += ["--in-chans", 5, "--mean", "0.5,0.5,0.4,0.4,0.3", "--std", "0.2,0.2,0.2,0.1,0.1"]
    result = run("embed", folder, *chosen, "-o", out, "--workers", 0)
    assert result.exit_code == 0, result.output
    assert "worse in 16 of 17 frozen cells" in result.stderr
    page = tmp_path / "page.html"
    asked = ["-q", folder / "1.tif", "--weights", weights, "-k", 1, "--html", page]
    found = run("neighbors", out, *asked, "--root", folder)
    assert found.stdout.splitlines()[1].strip() == "1.0000  1.tif"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--in-chans", "5"], "needs the mean and the standard deviation of 5 channels"),
        (["--in-chans", "5", "--mean", "1,2,3,4,5"], "--mean, --std and --in-chans belong"),
        (["--mean", "1", "--std", "1"], "--mean, --std and --in-chans belong together"),
        (["--in-chans", "5", "--mean", "1,b", "--std", "1"], "--mean '1,b' is not a list of"),
        (["--in-chans", "5", "--mean", "1,2", "--std", "1"], "do not normalise an image"),
        (["--in-chans", "5", "--mean", "1,2", "--std", "1,2"], "a preprocessing of 2 channels"),
        (["--in-chans", "R,R"], "names 'R' twice"),
        (["--in-chans", "0"], "is not a number of channels"),
        (["--img-size", "large"], "--img-size 'large' is not an image size"),
        (["--img-size", "1x2x3"], "is not an image size"),
    ],
)
def test_an_invalid_input_option_is_a_usage_error(
    run: Run,
    photos: Path,
    weights_of: WeightsOf,
    tmp_path: Path,
    options: list[str],
    problem: str,
) -> None:
    name = "shufflenet_v2_x0_5"
    chosen = ["-b", name, "--weights", weights_of(name), *options]
    result = run("embed", photos, *chosen, "-o", tmp_path / "out.parquet")
    assert result.exit_code == 2
    assert problem in result.stderr
