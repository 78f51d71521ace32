"""Reads an offline file of Weights & Biases: blocks of 32 KiB with records, as LevelDB's logs."""

import json
import struct

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(path):
    """The records of a .wandb file."""
    content, position, parts = path.read_bytes(), HEADER, []
    assert content[:4] == b":W&B"
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if not kind:
            position += left
            continue
        parts.append(content[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def offline_run(folder):
    """(configuration, everything logged by name as lists) of the only run in a folder `wandb`."""
    (path,) = folder.glob("offline-run-*/*.wandb")
    config, logged = {}, {}
    for record in records(path):
        for source in (record.config, record.run.config):
            for item in source.update:
                config[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        for item in record.history.item:
            name = item.key or ".".join(item.nested_key)
            logged.setdefault(name, []).append(json.loads(item.value_json))
    return config, logged


def artifacts(folder):
    """(type, names of its files) of each artifact of the only run in a folder `wandb`."""
    (path,) = folder.glob("offline-run-*/*.wandb")
    kept = [
        record.artifact
        for record in records(path)
        if record.WhichOneof("record_type") == "artifact"
    ]
    return [
        (artifact.type, [entry.path for entry in artifact.manifest.contents]) for artifact in kept
    ]
