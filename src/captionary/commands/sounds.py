"""`captionary sounds`: train the built-in sound tagger, or tag a file."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["sounds"]

_PATH = click.Path(path_type=Path)


@click.group()
def sounds() -> None:
    """Train the built-in sound tagger, or tag a file."""


@sounds.command("train")
@click.option(
    "--clips", type=_PATH, required=True, help="Folder with labels.csv and audio/, named as in ESC-50."
)
@click.option("--out", type=_PATH, required=True, help="Folder of the checkpoint.")
def sounds_train(clips: Path, out: Path) -> None:
    """Reproduce the built-in tagger: measure it on recordings held out, fit it to all clips, write OUT."""
    from captionary.understand.signals.sound_training import (
        evaluate,
        pretrained_blocks,
        read_clips,
        save_tagger,
    )

    encoder = pretrained_blocks()
    read = read_clips(clips, encoder=encoder)
    # Probabilities are sharpened by the strictest way to hold out: too sure of itself is worse than too unsure.
    strict = evaluate(read, "session")
    save_tagger(read, encoder, out, strict)
    for name, held_out in (("recordings", evaluate(read, "recording")), ("sessions", strict)):
        click.echo(f"{name} held out: top-1 {held_out.top1:.1%}, top-5 {held_out.top5:.1%}")


@sounds.command("tag")
@click.argument("file", type=_PATH)
@click.option(
    "--checkpoint", type=_PATH, help="A folder written by `sounds train`; default: the built-in one."
)
@click.option("--most", type=int, default=5, show_default=True, help="Labels to print.")
def sounds_tag(file: Path, checkpoint: Path | None, most: int) -> None:
    """Print the likeliest sounds of a sound or video FILE, with their probabilities."""
    from captionary.understand.media import read_bytes
    from captionary.understand.signals.sound_tagger import CHECKPOINT, SoundTagger
    from captionary.understand.signals.video import read_sound

    sound = read_sound(read_bytes(file), name=str(file))
    tags = SoundTagger(checkpoint or CHECKPOINT).tag(sound.samples, 0.0, most)
    for tag in tags:
        click.echo(f"{tag.score:6.1%}  {tag.label}  (from {tag.at_seconds:g} s)")
    if not tags:
        click.echo("silence")
