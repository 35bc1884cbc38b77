"""The commands, their options and their exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from chanattr import __version__
from chanattr.cli.command import Group, debug_option
from chanattr.errors import InputError
from chanattr.picture_settings import CHANNEL, INVERSION, PARAMETRISATIONS
from chanattr.settings import FILLS, GAMES, LABEL, LEVELS, PERTURBATIONS, PICTURE, PICTURE_AREAS, PRECISIONS, REWARDS, SEED, TARGETS

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)
SHOWN = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}
COUNT, AT_LEAST_ONE, PLACE = click.IntRange(min=0), click.IntRange(min=1), click.Path(path_type=Path)
INVERT_EXAMPLES = """\b
Examples:
  chanattr invert run.h5 photos --layer features.10 --count 4
  chanattr invert run.h5 photos --key 776_sax/one.jpg --area 4 --area 16 --objective match -o inversions"""
VISUALISE_EXAMPLES = """\b
Examples:
  chanattr visualise run.h5 photos --layer features.12 --top 8
  chanattr visualise run.h5 --layer features.12 --channel 3 --channel 17 --count 3 --diversity 0.5
  chanattr visualise run.h5 photos --layer features.12 --class dalmatian --against flamingo"""

# What several commands take, each declared once; a "_" keeps an option apart from the setting that it is of.
MODEL = click.argument("model")
IMAGES = click.argument("images", nargs=-1, required=True)
SOME_IMAGES = click.argument("images", nargs=-1)
RUN = click.argument("run", type=PLACE)
RUN_OUT = click.option("-o", "--output", required=True, type=PLACE, help="The run file (HDF5); an existing one is added to.")
FOLDER = click.option("-o", "--output", default="chanattr-pictures", type=PLACE, help="A folder.")
RUN_MODEL = click.option("--model", help="As for 'layers'. [default: the run's, unless it is code]")
WEIGHTS = click.option("--weights", help="'random', or a file of weights.")
DEVICE = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps.")
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
TARGETS_ = click.option("--targets", default=TARGETS[0], help=f"{', '.join(map(repr, TARGETS))} (class folders), or a class number.")
REWARD_ = click.option("--reward", default=REWARDS[0], help=f"{', '.join(REWARDS)}, or file.py:function.")
GAME_ = click.option("--game", default=GAMES[0], help=f"{', '.join(GAMES[:-1])} or {GAMES[-1]}.")
LEVEL_ = click.option("--level", help=f"What a* must reach: original, top1, or a fraction. [default: {LEVELS[GAMES[0]]}; "
                      f"delete: {LEVELS['delete']}]")
SEED_ = click.option("--seed", default=SEED, help="Of every random choice.")
LABEL_ = click.option("--label", default=LABEL, help="Under which these answers lie in the file.")
PRECISION_ = click.option("--precision", default=PRECISIONS[0],
                          help=f"Of the search: {', '.join(PRECISIONS)}. Scores are float32 always.")
READERS = click.option("--readers", type=COUNT, help="Processes that read pictures. [default: none on a CPU, else up to 8]")
RESUME = click.option("--resume/--no-resume", default=True, show_default=False,
                      help="Go on where the file stops, or refuse a file that has answers.")
RUN_LAYERS = click.option("--layer", "--layers", "layers", multiple=True, help="Of the run; may be repeated. [default: all]")
RUN_LABEL = click.option("--label", default=LABEL, help="Under which the answers lie.")
RUN_AXIS = click.option("--channel-axis", "axis", type=int, help="As given to attribute.")
RUN_REWARD = click.option("--reward", "rewards", multiple=True, metavar="FILE.py:FUNCTION",
                          help="The run's own reward function, where it has one; a run file alone never makes it run.")


class Decorator(Protocol):
    """What gives a command, or a part of one, an argument or an option."""

    def __call__(self, command: Command, /) -> Command: ...


def shared(*given: Decorator) -> Decorator:
    """Several of these as one decorator; the help lists them in this order."""
    def decorate(command: Command, /) -> Command:
        for one in reversed(given):
            command = one(command)
        return command

    return decorate


PICTURES = shared(
    RUN_MODEL, WEIGHTS, RUN_LABEL,
    click.option("--steps", type=AT_LEAST_ONE,
                 help=f"Of each picture. [default: {INVERSION['steps']} to invert, {CHANNEL['steps']} to visualise]"),
    click.option("--parametrisation", help=f"{', '.join(PARAMETRISATIONS)} (MaCo). [default: {INVERSION['parametrisation']}]"),
    click.option("--seed", default=SEED, type=COUNT, help="Of every random choice."),
    RUN_AXIS,
    click.option("--store/--no-store", default=True, help="Keep what is made in RUN; what is there is read."),
    DEVICE, JSON)


@click.group(cls=Group, invoke_without_command=True, context_settings=SHOWN)
@click.version_option(__version__, prog_name="chanattr")
@debug_option
@click.pass_context
def main(ctx: click.Context) -> None:
    """Which channels of a layer does a PyTorch vision network need to see this?

    Start with 'chanattr demo'. Then: 'chanattr layers MODEL' to pick a layer, 'chanattr attribute MODEL IMAGES --layer L -o run.h5',
    'chanattr show run.h5' and 'chanattr report run.h5'.

    Exit codes: 0 done, 1 done but some images could not be used, or 'check' and 'repair' found faults, 2 error, 130 interrupted by Ctrl-C
    and 143 by a kill (finished work is saved).
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@main.command(short_help="Attribute the shipped pictures on the shipped network.")
@click.option("--out", default="chanattr-demo", type=PLACE, help="Folder of the results.")
@click.option("--full", is_flag=True, help="All 120 images, all areas, and the layer features.7 too (hours); into demo-full.h5.")
@click.option("--workers", default=0, type=COUNT, help="Processes; 0 works in this one.")
def demo(out: Path, full: bool, workers: int) -> None:
    """Attribute the shipped images on the shipped network: a run file, a page, and a table of classes."""
    from chanattr.cli.demo import run_demo

    run_demo(out, full=full, workers=workers)


@main.command(short_help="List the layers of a model, or explain one.")
@MODEL
@click.option("--explain", metavar="LAYER", help="A dry run: what a mask there means and does not cut, the way, cost and time.")
@click.option("--images", default=1000, type=AT_LEAST_ONE, help="With --explain: that the estimate is for.")
@click.option("--device", default="auto", help="With --explain: auto, cpu, cuda, cuda:1, mps.")
@click.option("--weights", help="'random', or a file of weights (.safetensors, or .pth read with weights only).")
def layers(model: str, explain: str | None, images: int, device: str, weights: str | None) -> None:
    """List the layers of MODEL: name, type, calls, shape, channel axis and K; or explain one LAYER.

    MODEL is 'embedded', 'efficientnet_lite0', a torchvision name, 'timm:NAME', 'hf:NAME', or 'path/to/file.py:function'.
    """
    from chanattr.attribution.explain import explain as explained
    from chanattr.cli.text import layer_table
    from chanattr.cli.words import device_of
    from chanattr.images import example_image
    from chanattr.network.layers import layers as layers_of
    from chanattr.network.zoo import load_model

    place = device_of(device)  # a wrong word is refused also where the table does not need it
    loaded = load_model(model, weights=weights, device=place if explain else "cpu")
    example = example_image(loaded.preprocess)
    if explain:
        click.echo(explained(loaded.module, example.to(place), explain, images=images, score=loaded.score))
    else:
        click.echo(layer_table(layers_of(loaded.module, example)))


@main.command(short_help="Find the channels that images and classes need.")
@shared(MODEL, IMAGES)
@click.option("--layer", "layers_", multiple=True, required=True,
              help="Dotted name; repeat for several. NAME:input is its input, NAME@2 its second call.")
@RUN_OUT
@click.option("--channel-axis", type=int, help="Of the layers' output, where it is not found rightly; -1 is the last.")
@click.option("--group", default="", show_default=False,
              help="What a mask selects whole: heads (at NAME:input of their projection), channels a group, or file.py:function of K.")
@click.option("--areas", default="grid", help="'grid', 'paper', 'smallest' (a* only), or counts: 1,5,20.")
@shared(TARGETS_, REWARD_, GAME_)
@click.option("--fill", default=FILLS[0], help=f"For a dropped channel: {', '.join(FILLS[:-1])}, a number, FILE.npy.")
@LEVEL_
@click.option("--search", "search_", default="exact", help="exact, or penalty (the paper's).")
@shared(SEED_, LABEL_)
@click.option("--classes/--no-classes", default=True, show_default=False,
              help="Search one joint set a class too, where class folders are given.")
@click.option("--refine/--no-refine", default=None, help="Bisect a* to the exact count. [default: yes for exact, no for penalty]")
@click.option("--certify", is_flag=True, help="Prove a* sets irreducible, pruned where they are not; try exchanges, count out few.")
@shared(DEVICE, WEIGHTS)
@click.option("--batch-size", type=AT_LEAST_ONE, help="Masked images run at once. [default: fits the device]")
@PRECISION_
@click.option("--memory", "memory_budget", help="That masked images may need together: 500MB, 2GB. [default: what the device holds]")
@click.option("--workers", default="0", metavar="N|ray[:N|:ADDRESS[/N]]",
              help="Processes; 0 works in this one. On Ray: 'ray', 'ray:4' (here), 'ray:auto', 'ray:HOST:PORT/8'.")
@click.option("--shard", metavar="I/N", help="Only every N-th shard, counted from 1, for N jobs with a file each; then 'chanattr merge'.")
@shared(READERS, RESUME)
@click.option("--log-format", default="text", type=click.Choice(["text", "json"]), help="Words, or JSON lines.")
@click.option("--summary", type=PLACE, help="A JSON file of what was done. [default: none]")
def attribute(**options: Any) -> bool:
    """Find the channels that each of IMAGES, and each class, needs at some layers of MODEL.

    IMAGES are files, folders or globs; a folder of class folders (NNN_name, a class name, or a WordNet id) gives classes.
    Images that cannot be read, or whose scores are not finite, are named, counted, and end in exit code 1 after the rest is saved.
    """
    from chanattr.cli.attribute import run_attribute

    return run_attribute(options)


@main.command(short_help="Find where in the picture each image must be seen.")
@shared(MODEL, IMAGES, RUN_OUT)
@click.option("--areas", help=f"Shares of the picture: 0.05,0.1 or 5%,10%. [default: {','.join(map(str, PICTURE_AREAS))}]")
@click.option("--layer", default=PICTURE, help="Where masks lie: the picture, or a layer's grid.")
@click.option("--search", "search_", default="exact",
              help="exact, penalty (TorchRay's), draft (half the work), or two-starts.")
@click.option("--perturbation", default=PERTURBATIONS[0], help=f"What lies under masks: {', '.join(PERTURBATIONS)} or black.")
@shared(GAME_, REWARD_, LEVEL_, TARGETS_, LABEL_)
@click.option("--refine/--no-refine", default=None, help="Search a* between the areas too. [default: yes for exact, no for penalty]")
@click.option("--channel-axis", type=int, help="Of the layer, where it is not found rightly.")
@shared(SEED_, DEVICE, WEIGHTS)
@click.option("--batch-size", type=AT_LEAST_ONE, help="Masked pictures run at once. [default: fits the device]")
@shared(PRECISION_, READERS, RESUME)
def spatial(**options: Any) -> bool:
    """Find the smooth mask of each area through which MODEL still sees what is on each of IMAGES, and the smallest that suffices.

    IMAGES are files, folders or globs. The masks, as codes of 32 x 32, go into the run file, beside sets of channels where there are some.
    """
    from chanattr.cli.spatial import run_spatial

    return run_spatial(options)


@main.command(short_help="Measure the plain way against ours.")
@click.option("--model", default="embedded", help="As for 'layers'.")
@click.option("--layer", help="Dotted name. [default: features.12 of embedded]")
@DEVICE
@click.option("--images", type=PLACE, help="Folder of pictures. [default: the shipped ones]")
@click.option("--count", default=4, type=AT_LEAST_ONE, help="Pictures, of different classes where there are.")
@click.option("--plain-images", default=1, type=AT_LEAST_ONE, help="How many of them the plain way does; a round each.")
@click.option("--plain-steps", default=300, type=click.IntRange(1, 300), help="Fewer: its time is reckoned from them.")
@click.option("--areas", default="grid", help="'grid', 'paper', or counts: 1,5,20.")
@shared(WEIGHTS, JSON)
def bench(**options: Any) -> None:
    """Measure, in one run and on the same images, the plain way (the paper's protocol literally) against ours.

    Prints seconds, evaluations, scores, a* and peak memory of both, and which part of the gain comes from what.
    """
    from chanattr.cli.bench import run_bench

    run_bench(options)


@main.command(short_help="Hold the answers of a run against the baselines.")
@shared(RUN, SOME_IMAGES, RUN_MODEL, WEIGHTS, RUN_REWARD, RUN_LAYERS, RUN_LABEL)
@click.option("--method", "methods", multiple=True, help="A baseline; may be repeated. [default: all but shapley and banzhaf]")
@click.option("--pointing", type=PLACE, help="Boxes (JSON, COCO or VOC): the masks on the picture in the pointing "
              "game; --method names centre, gradient, gradient_x_input, grad_cam, blur_ig, rise, occlusion beside them.")
@click.option("--peers", is_flag=True, help="Other toolkits' attributions too (extra 'peers': Captum and zennit-crp).")
@click.option("--count", "limit", type=AT_LEAST_ONE, help="Pictures, at most.")
@RUN_AXIS
@click.option("--seed", default=SEED, type=COUNT, help="Of what baselines draw.")
@shared(DEVICE, JSON)
def evaluate(run: Path, **options: Any) -> None:
    """Hold the answers of a run against the baselines, on the same IMAGES, masks, areas, reward and fill.

    With --pointing, hold masks on the picture (from 'chanattr spatial') against boxes; IMAGES are needed only for --method. Without it the
    table is kept in RUN, in place of an older one of the same layer and label.

    Prints shares of the best score, a* and the fewest channels whose removal loses the class, with bootstrap intervals.
    """
    from chanattr.cli.evaluate import run_evaluate, run_pointing

    command = run_evaluate if options["pointing"] is None else run_pointing
    command(run, options)


@main.command(short_help="Show what activations look like, whole and masked.", epilog=INVERT_EXAMPLES)
@shared(RUN, IMAGES, FOLDER, RUN_LAYERS)
@click.option("--key", "keys", multiple=True, help="An image of the run; may be repeated. [default: some of each class]")
@click.option("--count", "limit", default=6, type=AT_LEAST_ONE, help="Images, where no keys are given.")
@click.option("--area", "areas", multiple=True, type=AT_LEAST_ONE, help="Channels in the set; may be repeated. [default: each image's a*]")
@click.option("--objective", default=INVERSION["objective"], help="dot (equation 10), cosine, or match (Mahendran and Vedaldi).")
@PICTURES
def invert(run: Path, **options: Any) -> None:
    """For IMAGES of a RUN, make pictures whose activation is like the image's: like all of it, and like its masked one.

    Writes a PNG sheet a layer, with a row for each area; prints the cosine of each picture's activation to the one looked for, and the
    class that the network names.
    """
    from chanattr.cli.pictures import run_invert

    run_invert(run, options)


@main.command(short_help="Show what channels look for.", epilog=VISUALISE_EXAMPLES)
@shared(RUN, SOME_IMAGES, FOLDER, RUN_LAYERS)
@click.option("--channel", "channels", multiple=True, type=COUNT, help="A number; may be repeated. [default: those that most sets have]")
@click.option("--class", "target", help="Number or name: its weighted set, and the channels that most of its images need.")
@click.option("--against", help="Number or name of a class whose rates are taken off.")
@click.option("--top", default=6, type=AT_LEAST_ONE, help="Channels, where none are given.")
@click.option("--count", default=1, type=AT_LEAST_ONE, help="Pictures of each.")
@click.option("--diversity", type=float,
              help=f"Weight by which pictures of one channel are kept apart. [default: {CHANNEL['diversity']:g}]")
@click.option("--examples", "shown", default=4, type=AT_LEAST_ONE, help="Of each kind, where IMAGES are given.")
@shared(RUN_REWARD, PICTURES)
def visualise(run: Path, **options: Any) -> None:
    """Make pictures that drive channels of a RUN as far as they can; with IMAGES of the run, show those that drive and need them most.

    Writes a PNG sheet a layer; prints the activation that each picture reaches and the class that the network names it.
    """
    from chanattr.cli.pictures import run_visualise

    run_visualise(run, options)


@main.command()
@shared(RUN, JSON)
def show(run: Path, as_json: bool) -> None:
    """Print what is in a run file."""
    import json

    from chanattr.cli.evaluation import evaluation_text, kept
    from chanattr.cli.spatial_text import spatial_text
    from chanattr.cli.text import run_text
    from chanattr.store import open_run

    with open_run(run) as opened:
        if as_json:
            click.echo(json.dumps(opened.summary(), indent=2))
            return
        click.echo(run_text(opened))
        for layer in opened.spatial_layers:
            for label in opened.labels(layer, spatial=True):
                click.echo(f"\n{spatial_text(opened, layer, label)}")
        if tables := kept(opened):
            click.echo(f"\n{evaluation_text(tables)}")


@main.command()
@RUN
@click.option("-o", "--output", type=PLACE, help="The page. [default: beside the run file]")
def report(run: Path, output: Path | None) -> None:
    """Write one self-contained page about a run file."""
    from chanattr.pictures.report import report as write_report
    from chanattr.store import open_run

    target = output or run.with_suffix(".html")
    if os.path.realpath(target) == os.path.realpath(run):
        raise InputError(f"the page would overwrite the run file {run}; expected another name; pass -o page.html")
    with open_run(run) as opened:
        click.echo(f"wrote {write_report(opened, target)}")


@main.command(short_help="Find every fault of a run file.")
@RUN
@click.option("--model", help="Score a sample of the answers again with it; with --images. As for 'layers'.")
@click.option("--images", multiple=True, help="The pictures of the run; may be repeated.")
@RUN_REWARD
@click.option("--count", "sample", default=16, type=AT_LEAST_ONE, help="Pictures in the sample.")
@shared(WEIGHTS, RUN_AXIS, DEVICE, JSON)
def check(run: Path, **options: Any) -> bool:
    """Read all of a run file: structure, checksums, digests, exact mask sizes; with --model and --images the scores
    of a sample of the images' sets of channels too.

    Prints a line for each fault, and ends with exit code 1 where there are some.
    """
    from chanattr.cli.check import run_check

    return run_check(run, options)


@main.command(short_help="Keep what is whole of a damaged run file.")
@RUN
@click.option("-o", "--output", type=PLACE, help="The new file. [default: RUN.repaired.h5 beside it]")
def repair(run: Path, output: Path | None) -> bool:
    """Write a new run file of every row that is whole; the damaged one stays as it is.

    Prints a line for each fault, and ends with exit code 1 where something was lost.
    """
    from chanattr.cli.check import run_repair

    return run_repair(run, output)


@main.command(short_help="Join run files of one question.")
@click.argument("runs", nargs=-1, required=True, type=PLACE)
@click.option("-o", "--output", required=True, type=PLACE, help="The run file; an existing one is added to.")
def merge(runs: tuple[Path, ...], output: Path) -> None:
    """Join run files, such as those of 'chanattr attribute --shard I/N', into one.

    Without --shard, the same 'chanattr attribute' over the joined file searches what is missing, and the classes.
    """
    from chanattr.store.join import join_runs
    from chanattr.tables import count

    told = join_runs(runs, output)
    click.echo(f"wrote {output}: {count(told['images'], 'image')} of {count(len(runs), 'run')}")


@main.command(short_help="Write a run for other programs.")
@RUN
@click.option("--format", "form", default="netcdf", help="netcdf, zarr, csv or parquet (the latter two: tables).")
@click.option("-o", "--output", type=PLACE, help="[default: beside the run file, named after the format]")
def export(run: Path, form: str, output: Path | None) -> None:
    """Write a run in another form: arrays with plain masks (netcdf, zarr), or flat tables with sets as channel numbers (csv, parquet)."""
    from chanattr.store import open_run
    from chanattr.store.export import export_run

    with open_run(run) as opened:
        for path in export_run(opened, output or run.with_suffix({"netcdf": ".nc"}.get(form, f".{form}")), form):
            click.echo(f"wrote {path}")
