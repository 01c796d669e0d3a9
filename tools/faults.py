"""Put faults into a copy of headstrip, one at a time, and see that the default tests catch each.

Every fault is one that a user would not notice. The tests that ought to catch it run first, then,
where they did not, the whole default run; a fault that passes both makes this script fail.

    python tools/faults.py                     all of them
    python tools/faults.py 'hash*' --quick     some, without the whole run
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = (
    "src",
    "tests",
    "plugins",
    "tools",
    "docs",
    "benchmarks",
    "conftest.py",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "hatch_build.py",
)


@dataclass(frozen=True)
class Fault:
    """One change to one file.

    Attributes:
        name: What goes wrong.
        file: Path from ``src/headstrip``.
        old: Text that stands there once.
        new: Text in its place.
        tests: Where the test that ought to notice is.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = (
    Fault(
        "probe in train mode",
        "network/width.py",
        '        state["training"] = False\n',
        '        state["training"] = True\n',
        "tests/network",
    ),
    Fault(
        "statistics spoiled by a real probe",
        "network/width.py",
        '            module.__dict__["training"] = False\n',
        "            pass\n",
        "tests/network",
    ),
    Fault(
        "wrong pooling",
        "families/squeezenet.py",
        "nn.AdaptiveAvgPool2d(1)",
        "nn.AdaptiveMaxPool2d(1)",
        "tests/families",
    ),
    Fault(
        "mean and std swapped",
        "images/preprocessing.py",
        "v2.Normalize(list(self.mean), list(self.std))",
        "v2.Normalize(list(self.std), list(self.mean))",
        "tests/images",
    ),
    Fault(
        "head not kept",
        "network/head.py",
        "return Stripped(model, head, (path,), input_shape=input_shape)",
        "return Stripped(model, type(head)(*_sizes(head)), (path,), input_shape=input_shape)\n\n\n"
        "def _sizes(head: nn.Module) -> tuple[int, ...]:\n"
        '    return tuple(reversed(getattr(head, "weight").shape)) '
        'if hasattr(head, "weight") else ()',
        "tests/families",
    ),
    Fault(
        "hash not compared",
        "weights/trust.py",
        "if not found.startswith(expected.sha256):",
        "if False:",
        "tests/weights",
    ),
    Fault(
        "code in a file executed",
        "weights/torch_file.py",
        "        weights_only=True,\n",
        "        weights_only=False,\n",
        "tests/weights",
    ),
    Fault(
        "a file that was read before names any class",
        "weights/mapped_archive.py",
        "        return _ALLOWED[module, name]\n",
        "        return _ALLOWED.get((module, name)) or super().find_class(module, name)\n",
        "tests/weights/test_mapped_archive.py",
    ),
    Fault(
        "a new file read as one that torch accepted",
        "weights/reading.py",
        "    read_before = seen.facts.get(_READ, False)\n",
        "    read_before = True\n",
        "tests/weights/test_mapped_archive.py",
    ),
    Fault(
        "owner not checked",
        "registry/index.py",
        "    if spec.source != owner:\n",
        "    if not spec.source:\n",
        "tests/registry",
    ),
    Fault(
        "bad image embedded",
        "embed/output/table.py",
        "    bad = np.array([error is not None for error in rows.errors], bool)\n",
        "    bad = np.zeros(len(rows.errors), bool)\n",
        "tests/embed/test_run.py",
    ),
    Fault(
        "bad image shifts its neighbours",
        "embed/output/table.py",
        "array[rows] = values[: len(rows)]",
        "array[rows] = values[::-1][: len(rows)][::-1]",
        "tests/embed/test_pipeline.py",
    ),
    Fault(
        "a PIL image is not turned",
        "images/inputs.py",
        "        if isinstance(image, Image.Image):\n            return as_picture",
        "        if isinstance(image, Image.Image):\n            image.info.pop('exif', None)\n"
        "            image.getexif().clear()\n            return as_picture",
        "tests/images/test_same_picture.py",
    ),
    Fault(
        "alpha dropped",
        "images/modes.py",
        'None if preprocessing.background == "keep" else _alpha(samples)',
        "None",
        "tests/images/test_background.py",
    ),
    Fault(
        "white is zero ignored",
        "images/modes.py",
        "255 - pixels if scale.is_inverted else pixels",
        "pixels",
        "tests/images/test_value_range.py",
    ),
    Fault(
        "an unknown range guessed",
        "images/modes.py",
        "    if not is_plain and (largest - least < quarter or black < 0 <= least):\n",
        "    if False:\n",
        "tests/images/test_value_range.py",
    ),
    Fault(
        "upper bytes taken for lower ones",
        "images/samples.py",
        '("B" if order == "L" else "L")',
        "order",
        "tests/images/test_value_range.py",
    ),
    Fault(
        "every page is the first",
        "embed/pages.py",
        "open_bytes(data, max(0, page - 1))",
        "open_bytes(data, 0)",
        "tests/embed/test_pages.py",
    ),
    Fault(
        "rows beyond the last patch left out",
        "network/patches.py",
        "for cut, sizes in watch.cuts:",
        "for cut, sizes in ():",
        "tests/network/test_patches.py",
    ),
    Fault(
        "orientation ignored",
        "images/decode.py",
        "    turn = turn_of(image)\n",
        "    turn = None\n",
        "tests/embed",
    ),
    Fault(
        "a shard is done because it is there",
        "embed/output/work_dir.py",
        "return bool(is_same and file.metadata.num_rows == stop - start)",
        "return True",
        "tests/embed/output/test_work_dir.py",
    ),
    Fault(
        "a changed image is not noticed",
        "embed/output/reusable_rows.py",
        'if earlier["size"] != item.size or earlier["modified"] != item.modified:',
        "if False:",
        "tests/embed/output/test_reusable_rows.py",
    ),
    Fault(
        "update gives images the maps of others",
        "embed/output/reusable_rows.py",
        "array[at : at + 1]",
        "array[:1]",
        "tests/embed/test_dense.py",
    ),
    Fault(
        "prefix tokens come after the patches",
        "embed/engines/network.py",
        "[prefixes[-1], patches]",
        "[patches, prefixes[-1]]",
        "tests/embed/test_dense.py",
    ),
    Fault(
        "times that no column holds count as unchanged",
        "embed/output/reusable_rows.py",
        "            if not is_clipped(item.modified):\n",
        "            if True:\n",
        "tests/embed/output/test_reusable_rows.py",
    ),
    Fault(
        "rows of another encoder are updated",
        "encoder/comparison.py",
        '    if there.get("identity") == here.get("identity"):\n',
        "    if True:\n",
        "tests/embed/output/test_provenance.py",
    ),
    Fault(
        "the array has its name before its rows",
        "embed/output/merging.py",
        "written_together([rows_file(out), out], within=within, durable=True)\n"
        "    with files as (rows, values):",
        "written_together([out, rows_file(out)], within=within, durable=True)\n"
        "    with files as (values, rows):",
        "tests/embed/output/test_array_file.py",
    ),
    Fault(
        "an array is paired with any rows",
        "embed/output/array_file.py",
        "    if described is not None and described != _description(",
        "    if described is not None and None is _description(",
        "tests/embed/output/test_array_file.py",
    ),
    Fault(
        "a finished array is not compared with its rows",
        "embed/plan.py",
        "    if problem := array_problem(out, metadata):\n",
        "    if problem := None:\n",
        "tests/embed/output/test_array_file.py",
    ),
    Fault(
        "any read error removes a shard",
        "embed/output/merging.py",
        "except (DamagedFile, FileNotFoundError) as error:",
        "except OSError as error:",
        "tests/embed/output/test_merging.py",
    ),
    Fault(
        "any read error says that a shard is missing",
        "embed/output/work_dir.py",
        "        except (FileNotFoundError, DamagedFile):\n            # A power cut",
        "        except (OSError, DamagedFile):\n            # A power cut",
        "tests/embed/output/test_work_dir.py",
    ),
    Fault(
        "where an image is does not count in a listing",
        "embed/listing.py",
        'for name in ("size", "modified", "offset"):',
        'for name in ("size", "modified"):',
        "tests/embed/test_listing.py",
    ),
    Fault(
        "files of others in the folder of parts are removed",
        "embed/output/work_dir.py",
        "            if not _is_regular(path) or path.name not in (_STATE, _LOCK):\n",
        "            if False:\n",
        "tests/embed/output/test_work_dir.py",
    ),
    Fault(
        "a link to the file to write is not seen through",
        "embed/output/paths.py",
        "        if (found.st_dev, found.st_ino) in self._identities:\n",
        "        if False:\n",
        "tests/embed/output/test_paths.py",
    ),
    Fault(
        "constructor arguments of the weights ignored",
        "spec.py",
        " **dict(entry.options if entry else ()),",
        "",
        "tests/factory tests/weights",
    ),
    Fault(
        "frozen backbone woken by train()",
        "encoder/encoder.py",
        "        self._stop(self.backbone)\n",
        "",
        "tests/factory",
    ),
    Fault(
        "what freeze stopped is woken by train() of a pyramid",
        "encoder/pyramid.py",
        "            encoder._stop(part)\n",
        "            pass\n",
        "tests/encoder/test_pyramid.py",
    ),
    Fault(
        "kept head trains",
        "encoder/encoder.py",
        "            head.requires_grad_(False)\n",
        "            head.requires_grad_(True)\n",
        "tests/factory",
    ),
    Fault(
        "building moves the generator",
        "factory/instantiate.py",
        "        torch.set_rng_state(state)\n",
        "        del state\n",
        "tests/factory",
    ),
    Fault(
        "predictors not initialised",
        "encoder/predictors.py",
        "        init_predictors(self)\n",
        "",
        "tests/encoder",
    ),
    Fault(
        "any source answers a bare name",
        "registry/registry.py",
        "            for source in BARE_SOURCES:\n",
        "            for source in (*BARE_SOURCES, *self._listed()):\n",
        "tests/registry",
    ),
    Fault(
        "auxiliary heads stay",
        "families/auxiliary.py",
        "            setattr(model, name, None)\n",
        "            getattr(model, name)\n",
        "tests/families",
    ),
    Fault(
        "a mapped file is written to",
        "weights/mapping.py",
        "from_file(path, shared=False,",
        "from_file(path, shared=True,",
        "tests/weights/test_mapping.py",
    ),
    Fault(
        "a rewritten file is not noticed",
        "encoder/file_watch.py",
        "        for guard in self._guards:\n            guard.check()\n",
        "        pass\n",
        "tests/factory",
    ),
    Fault(
        "what others hold is not looked for",
        "factory/instantiate.py",
        "        if replaced.is_held(model):\n",
        "        if False:\n",
        "tests/factory",
    ),
    Fault(
        "values that a network changes when it is loaded are assigned",
        "factory/instantiate.py",
        " not holds_exactly(model, given):\n",
        " False:\n",
        "tests/factory",
    ),
    Fault(
        "what a network keeps besides its tensors is lost",
        "factory/maker.py",
        "return {**state, **extra_states(content)}",
        "return {**state}",
        "tests/factory",
    ),
    Fault(
        "the first parameter says what the input is",
        "network/dtypes.py",
        "        counts[parameter.dtype] += parameter.numel()\n",
        "        counts[parameter.dtype] += 1\n        break\n",
        "tests/factory",
    ),
    Fault(
        "buffers are replaced",
        "network/assigning.py",
        "        if not own.is_meta:\n",
        "        if False:\n",
        "tests/factory",
    ),
    Fault(
        "unaligned tensors are used where they are",
        "network/assigning.py",
        "made.data_ptr() % ALIGNMENT:",
        "False:",
        "tests/factory",
    ),
    Fault(
        "every record holds",
        "weights/records.py",
        "        return then == (stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev)",
        "        return True",
        "tests/weights",
    ),
    Fault(
        "errors quote outside text as it is",
        "errors.py",
        "    return printable(argument) if isinstance(argument, str) else argument\n",
        "    return argument\n",
        "tests/test_errors.py",
    ),
    Fault(
        "click quotes arguments as they are",
        "cli/failures.py",
        '            vars(error)["message"] = printable(error.message)\n',
        "            pass\n",
        "tests/cli/test_outside_text.py",
    ),
    Fault(
        "commands print outside text as it is",
        "cli/output.py",
        "click.secho(printable(str(text)),",
        "click.secho(str(text),",
        "tests/cli/test_outside_text.py",
    ),
    Fault(
        "a folder without METADATA is not noticed",
        "plugins/metadata_folders.py",
        "    if content is None or not _NAME.search(content) or _lines(content) is None:\n",
        "    if False:\n",
        "tests/plugins",
    ),
    Fault(
        "a damaged folder hides a plugin",
        "plugins/metadata_folders.py",
        "        yield name, folders[0] if len(folders) == 1 else next(complete, folders[0])\n",
        "        yield name, folders[0]\n",
        "tests/plugins",
    ),
    Fault(
        "a slow plugin is waited for",
        "authoring/plugin_checks.py",
        "    if not here.poll(timeout):\n",
        "    if not here.poll(None):\n",
        "tests/cli/test_plugins.py",
    ),
    Fault(
        "a catalog's wrong width passes the trial",
        "authoring/smoke_test.py",
        "    if found.dim != smallest.dim:\n",
        "    if False:\n",
        "tests/cli/test_plugins.py",
    ),
    Fault(
        "a row may have any scheme",
        "embed/sources/access.py",
        "    if scheme not in SCHEMES | access.schemes:\n",
        "    if not scheme:\n",
        "tests/embed/sources/test_hostile_rows.py",
    ),
    Fault(
        "a row may chain file systems",
        "embed/sources/access.py",
        '    if "::" in _HOST_IN_BRACKETS.sub("", rest, count=1):\n',
        "    if not rest:\n",
        "tests/embed/sources/test_hostile_rows.py",
    ),
    Fault(
        "a redirect leads anywhere",
        "embed/sources/urls.py",
        "        if why:\n",
        "        if not target:\n",
        "tests/embed/sources/test_urls.py",
    ),
    Fault(
        "a private address is connected to",
        "embed/sources/urls.py",
        "if is_private(address[0]) and not is_home:",
        "if not address:",
        "tests/embed/sources/test_urls.py",
    ),
    Fault(
        "offline forbids weights alone",
        "embed/sources/access.py",
        '    return hub.hub_offline() if scheme == "hf" else hub.offline()\n',
        "    return None\n",
        "tests/embed/sources/test_urls.py",
    ),
    Fault(
        "the path of a row is normalised",
        "embed/sources/files.py",
        "    name = stored if _SURROGATE.search(text) else text\n",
        "    name = stored if _SURROGATE.search(text) else os.path.normpath(text)\n",
        "tests/embed/sources/test_lists.py",
    ),
    Fault(
        "files are left out in silence",
        "embed/sources/trees.py",
        "                    note_file(entry.name)\n",
        "                    continue\n",
        "tests/embed/sources/test_left_out.py",
    ),
    Fault(
        "a time beyond its column ends the run",
        "embed/sources/items.py",
        "    return max(-_MAX_INT64, min(value, _MAX_INT64))\n",
        "    return value\n",
        "tests/embed/sources",
    ),
    Fault(
        "a location leads out of its package",
        "weights/folders.py",
        "    if not stays_inside(inside) or not",
        "    if not",
        "tests/weights/test_locating.py",
    ),
    Fault(
        "any distribution owns timm",
        "plugins/loader.py",
        '    if home and one.origin.partition(" ")[0].lower().replace("_", "-") != home:\n',
        "    if False:\n",
        "tests/plugins/test_discovery.py",
    ),
    Fault(
        "a head at random has other classes than its library's",
        "../../plugins/headstrip-transformers/src/headstrip_transformers/configs.py",
        'labels = {} if classes is None else {"num_labels": classes or 1}',
        'labels = {"num_labels": 1000 if classes is None else classes or 1}',
        "plugins/headstrip-transformers/tests/test_model_types.py",
    ),
    Fault(
        "attention is as wide as its input",
        "network/meta_ops.py",
        "    shape = (*query.shape[:2], out_proj_weight.shape[0])\n",
        "    shape = tuple(query.shape)\n",
        "tests/network/test_by_shape.py",
    ),
    Fault(
        "tensors of any shapes have a sum",
        "network/meta_ops.py",
        "small.ndim <= large.ndim and all(side in {1, whole} for side, whole in pairs)",
        "True",
        "tests/network/test_by_shape.py",
    ),
    Fault(
        "a hidden layer is taken for the head",
        "network/head_check.py",
        "        _check_last(stripped, run)\n",
        "        pass\n",
        "tests/factory/test_head_place.py",
    ),
    Fault(
        "verify loads no weights",
        "testing/weights_checks.py",
        "                problem = _load(subject, replace(entry, locations=(location,)))\n",
        "                problem = None\n",
        "tests/testing/test_files.py",
    ),
    Fault(
        "verify runs no large network",
        "testing/catalog_checks.py",
        '    if subject.level == "once":\n',
        "    if False:\n",
        "tests/testing/test_files.py",
    ),
    Fault(
        "a plugin that states no version fits any",
        "plugins/validation.py",
        'getattr(target, "API_VERSION", 1)',
        'getattr(target, "API_VERSION", hookspecs.API_VERSION)',
        "tests/plugins/test_public_names.py",
    ),
    Fault(
        "predictors are loaded by position",
        "encoder/predictors.py",
        "    if len(mine) != len(groups) or len(set(found)) != len(groups):\n",
        "    found = list(mine)\n    owners = dict(zip(theirs, ([key] for key in mine)))\n"
        "    if len(mine) != len(groups):\n",
        "tests/encoder",
    ),
    Fault(
        "two names of attributes have one key",
        "encoder/predictors.py",
        'name.replace("%", "%25").replace(".", "%2E")',
        'name.replace(".", "%2E")',
        "tests/encoder",
    ),
    Fault(
        "trained predictors are built at random",
        "factory/from_manifest.py",
        "    if predictors is None:\n        _refuse_trained_predictors(wanted)\n",
        "",
        "tests/factory",
    ),
    Fault(
        "training is not noticed",
        "encoder/predictors.py",
        "        return _digest(self, torch.float64) not in self._initial\n",
        "        return not self._initial\n",
        "tests/encoder tests/factory",
    ),
    Fault(
        "a changed head is rebuilt from the file",
        "encoder/manifest.py",
        '    "head": (lambda value: value is None or _is_hash(value), "a sha256, or null"),\n',
        "",
        "tests/factory",
    ),
    Fault(
        "options of a manifest make a network of any size",
        "factory/from_manifest.py",
        "    refuse_large_network(",
        "    (lambda *_: None)(",
        "tests/factory/test_bounds.py",
    ),
    Fault(
        "numbers in options are not bounded",
        "encoder/bounds.py",
        "abs(value) > most:",
        "abs(value) > most and most < MAX_NUMBER:",
        "tests/factory/test_bounds.py",
    ),
    Fault(
        "predictors of any size are built",
        "factory/from_manifest.py",
        "refuse_large_predictors(predictor_counts(wanted), encoder.output_dim, about)\n",
        "pass\n",
        "tests/factory/test_bounds.py",
    ),
    Fault(
        "environments: keys of the old file alone are left out",
        "embed/output/provenance.py",
        "for key in sorted({*self.environment, *earlier.environment})",
        "for key in sorted(self.environment)",
        "tests/embed/output/test_provenance.py",
    ),
    Fault(
        "versions of the manifest alone are left out",
        "encoder/manifest.py",
        "for key in {**there, **here} if",
        "for key in here if",
        "tests/factory/test_manifest.py",
    ),
    Fault(
        "the dtype of an encoder is not compared",
        "encoder/comparison.py",
        'for key in ("options", "preprocessing", "dtype")',
        'for key in ("options", "preprocessing")',
        "tests/embed/output/test_provenance.py",
    ),
    Fault(
        "the dtype of a manifest is not compared",
        "encoder/manifest.py",
        '_NOT_COMPARED = {"weights.file",',
        '_NOT_COMPARED = {"dtype", "weights.file",',
        "tests/factory/test_manifest.py",
    ),
    Fault(
        "a file of the user's own is mapped",
        "weights/reading.py",
        "        mapped = bool(options.name) and _is_safe_to_map(path)\n",
        "        mapped = may_map(path)\n",
        "tests/weights/test_own_files.py",
    ),
    Fault(
        "a link out of a cache counts as in it",
        "weights/folders.py",
        "        and any(_is_inside(real, os.path.realpath(folder)) for folder in folders)\n",
        "",
        "tests/weights/test_own_files.py",
    ),
    Fault(
        "a state dict of mapped pages is given away",
        "encoder/file_watch.py",
        "            _copy_into_memory(network)\n",
        "            pass\n",
        "tests/weights/test_own_files.py",
    ),
    Fault(
        "one of two state dicts is guessed",
        "factory/checkpoint_choice.py",
        "    if len(fits) > 1:\n",
        "    if False:\n",
        "tests/network/test_checkpoints.py",
    ),
    Fault(
        "an optimizer's state is a second state dict",
        "network/checkpoints.py",
        "return is_optimizer or _SLOT.fullmatch(name) is not None",
        "return False",
        "tests/network/test_checkpoints.py",
    ),
    Fault(
        "a network under a name like an optimizer's is passed over",
        "network/checkpoints.py",
        " and _NETWORK.search(name) is None",
        "",
        "tests/network/test_checkpoints.py",
    ),
    Fault(
        "a second network beside one with a prefix is passed over",
        "network/candidates.py",
        "        return [again, *below]\n",
        "        return below\n",
        "tests/weights/test_layouts.py",
    ),
    Fault(
        "a plugin that takes off a prefix hides the network without it",
        "factory/checkpoint_choice.py",
        "        return tuple(name for name in self.content if name not in used)\n",
        "        return ()\n",
        "tests/weights/test_layouts.py",
    ),
    Fault(
        "labels for another number of classes are taken",
        "factory/own_labels.py",
        "    if classes != len(labels):\n",
        "    if False:\n",
        "tests/factory/test_labels.py",
    ),
    Fault(
        "an average without names is passed over",
        "network/checkpoints.py",
        "if 2 * less > more and has_shapes_of(one, other):",
        "if False:",
        "tests/network/test_checkpoints.py",
    ),
    Fault(
        "a plain file has the options of the default weights",
        "factory/construction.py",
        "    if selection.is_named or entry is None:\n",
        "    if True:\n",
        "tests/weights/test_own_file_options.py",
    ),
    Fault(
        "what a file states of itself is not asked for",
        "factory/weights_source.py",
        "        if path is not None and not self.selection.is_named:\n",
        "        if False:\n",
        "tests/weights/test_own_file_options.py",
    ),
    Fault(
        "a user is told to remove a file",
        "weights/sharded_checkpoint.py",
        "    if lies_in_a_cache(path):\n",
        "    if True:\n",
        "tests/weights/test_own_files.py",
    ),
    Fault(
        "plain http is not warned of",
        "weights/downloading.py",
        'not address.startswith("http://")',
        "True",
        "tests/weights/test_downloading_addresses.py",
    ),
)


def copy_project(folder: Path) -> None:
    """Copy what the tests need into a folder."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    # It says that every fault can be put in, which is untrue of a copy that has one.
    (folder / "tests" / "test_faults.py").unlink()


@contextmanager
def put_in(fault: Fault, folder: Path) -> Iterator[None]:
    """Change one place in a copy of the project, and change it back afterwards."""
    original = ROOT / "src" / "headstrip" / fault.file
    path = folder / "src" / "headstrip" / fault.file
    text = original.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise SystemExit(
            f"{fault.name!r} fits {text.count(fault.old)} places of {fault.file}. Mend this script."
        )
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    try:
        yield
    finally:
        # With the time of the original, so that Python does not take the fault's bytecode for it.
        shutil.copy2(original, path)


def caught_by(folder: Path, tests: list[str]) -> str | None:
    """Run tests of a copy, all of them where none are named; return the first that fails."""
    paths = [folder / "src", *sorted(folder.glob("plugins/*/src"))]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
    }
    # A fault may end the process of a test, so there is always another one, which reports it.
    workers = "1" if tests else "2"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-n", workers, *tests],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    # xdist calls it an interruption when -x ends a run.
    if ran.returncode in {1, 2} and failed:
        return failed[0].partition(" ")[2].partition(" - ")[0]
    if ran.returncode == 0:
        return None
    raise SystemExit(f"pytest did not run:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")


def main() -> None:
    """Print one row per fault, and fail when one is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--quick", action="store_true", help="only the tests named beside a fault")
    arguments = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)
        for fault in FAULTS:
            if not any(fnmatch.fnmatch(fault.name, pattern) for pattern in arguments.patterns):
                continue
            with put_in(fault, folder):
                caught = caught_by(folder, fault.tests.split())
                if caught is None and not arguments.quick:
                    caught = caught_by(folder, [])
            missed += caught is None
            what = f"caught by {caught}" if caught else "NOT CAUGHT"
            print(f"{fault.name:46} {what}", flush=True)
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
