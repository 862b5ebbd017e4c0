"""The paper's network and strategy (arXiv 1505.04597): what every config starts from.

Each data set's file changes what is its own; each variant changes what it says. Every
value can be given on the command line: `--config.train.steps=200`.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The whole tree of settings with the paper's values."""
    config = ml_collections.ConfigDict()
    config.seed = 1  # of splits' shards, augmentation, initial weights and data order

    config.data = data = ml_collections.ConfigDict()
    data.name = ""  # first part of every tile's key; "" takes the input folder's name
    data.layout = "folder"  # isbi, ctc or folder: see dataset/images/layouts.py
    # ctc: gold, silver, both; folder: binary, class, instance; auto: what fits them all
    data.labels = "auto"
    # folder: other numbers for a mask's values or colours, such as
    # "1=0, 255=unlabelled" or "#000000=0, #ff0000=1, #0000ff=2"
    data.mask_values = ""
    data.channels = ()  # of the files, from 0, such as (0, 2); () takes all there are
    # OME-Zarr: which resolution, 0 is the largest; times and z, from 0, () takes all
    data.level = 0
    data.times = ()
    data.slices = ()
    # folder: frames are regions of larger images: rectangles of a table (CSV: file,
    # top_px, left_px, bottom_px, right_px), by its path below the folder; or
    # "labelled", those around what masks do not leave unlabelled
    data.regions = ""
    data.sequences = ()  # ctc: ("01", "02"); () takes all there are
    # isbi, ctc: images of the stack or video whose channels follow the frame's own, as
    # (-1, 1) for the one before and the one after; model.channels counts all
    data.neighbours = ()
    # folder: what frames belong together (plate, patient): a regular expression on the
    # image's path below the folder, such as "^(plate[0-9]+)"; groups are not divided
    data.group = ""
    # folder: "_mask" where a.png goes with a_mask.png; OME-Zarr: which of its labels/
    data.mask_suffix = ""
    data.on_bad_frame = "fail"  # fail: list all and stop; skip: leave out and record
    data.tile_size = 572  # px in; valid convolutions give 388 out at depth 4
    data.num_shards = 16  # at most, per split; several per reading worker are good
    data.augmentations = 20  # units per training frame, the unchanged one included
    # classes (the paper's); for cells that touch, beside the classes, border: whether a
    # pixel lies where two meet; distance: how deep in its cell it lies, and how near to
    # another (see unet_tfrecords/dataset/targets)
    data.targets = "classes"
    data.border_weight = 10.0  # w0: extra weight between touching cells
    data.border_sigma_px = 5.0  # how wide the border term is, px
    data.normalization = (
        "frame"  # mean and deviation of each frame, or of all (dataset)
    )
    data.image_encoding = "raw"  # raw or png: png is a third smaller, a fifth as fast

    data.split = split = ml_collections.ConfigDict()
    # block, sequence, list or fold (see dataset/splits.py); auto: sequence where
    # data.group names any, else block
    split.method = "auto"
    split.validation = 0.15  # of each sequence's frames, to choose by
    split.test = 0.25  # of each sequence's frames, never looked at until evaluate
    # method sequence: names, such as ("02",); without any, the last sequences
    split.validation_sequences = ()
    split.test_sequences = ()
    split.validation_frames = ()  # method list: "SEQUENCE/NAME", such as ("01/t012",)
    split.test_frames = ()
    split.folds = 5  # method fold: contiguous blocks that each sequence is cut into
    split.fold = 0  # method fold: the block that is test; the next one is validation

    data.augment = augment = ml_collections.ConfigDict()
    augment.elastic_grid = 3  # nodes per axis of the displacement grid
    augment.elastic_sigma_px = 10.0  # deviation of the nodes' displacements, px
    augment.rotation_deg = 180.0  # turns by up to this, either way, degrees
    augment.flip = True  # mirrors along either axis, half of the time each
    augment.shift_px = 32.0  # moves by up to this along either axis, px
    augment.zoom = 0.0  # log of the factor that scales objects, up to, either way
    augment.contrast = 0.25  # log factor on the deviation from the mean, up to
    augment.brightness = 0.25  # added, in standard deviations of the frame, up to
    augment.gamma = 0.2  # log of the power on the normalised value, up to

    config.model = model = ml_collections.ConfigDict()
    model.width = 64  # channels of the first level, doubled at each further one
    model.depth = 4  # poolings; the border lost is 4 * (3 * 2**depth - 2) px
    model.channels = 1  # of the image: 1 grey, 3 RGB
    model.classes = 2  # background included
    model.class_names = ()  # for people, one a class, background first; () numbers them
    model.standardized_kernels = False  # of 3 x 3 convolutions, see network/layers.py
    model.dropout = 0.5  # at the end of the contracting path, share of channels' values

    config.train = train = ml_collections.ConfigDict()
    train.steps = 40_000  # optimiser steps
    train.global_batch = 0  # tiles a step over all replicas; 0: see the next key
    train.tiles_per_replica = 0  # 0: as many as fit a GPU, up to 8; 1 on a processor
    train.accumulate = 1  # parts that a replica's tiles are taken in, to save memory
    train.optimizer = "sgd"  # sgd (with momentum), adam or adamw
    train.momentum = 0.99  # sgd: high, so that many past tiles shape each step
    train.weight_decay = 0.0  # of kernels, times the learning rate; adamw wants some
    train.clip_norm = 0.0  # largest norm of the whole gradient; 0 clips nothing
    train.ema = 0.0  # share kept by the moving average of weights, as 0.999; 0 has none
    train.schedule = "constant"  # constant, cosine or polynomial
    train.learning_rate = 1e-3  # the highest, after the warm-up
    # fixed, linear or sqrt in global_batch / reference_batch; auto: sqrt where
    # global_batch is 0, else fixed
    train.learning_rate_rule = "auto"
    train.reference_batch = 1  # tiles a step that learning_rate is for
    train.warmup_steps = 0  # linear from 0
    train.final_learning_rate = 0.0  # share left at the last step: cosine, polynomial
    train.decay_power = 0.9  # polynomial: (1 - step / steps) to this power
    train.loss = "cross_entropy"  # cross_entropy (the paper's), dice, or their sum
    # of the loss of the planes that data.targets adds; with 10 instead of 1, HeLa
    # learned next to nothing of its classes in 300 steps
    train.plane_weight = 1.0
    train.class_weights = "balanced"  # balanced: inverse to frequency; none: 1 each
    train.shuffle_tiles = 256  # tiles in the shuffle buffer (572 px: about 0.4 MB each)
    train.precision = "auto"  # auto, float32, mixed_bfloat16, mixed_float16
    train.xla = "auto"  # on, off; auto: on, but for GPUs newer than it (Blackwell)
    # GPUs repeat and resume bit for bit, at some cost in speed; processors always do.
    train.deterministic = False
    train.steps_per_call = 10  # steps in one graph call between looks at the host
    train.log_every_steps = 20  # a line in metrics.jsonl and TensorBoard
    train.validate_every_steps = 0  # scores, pictures; 0: about 20 times in all
    train.validate_frames = 0  # whole frames each time, spread over the split; 0: all
    train.best_metric = "mean_iou"  # or pixel_error, cross_entropy: what "best" means
    train.patience = 0  # stops after N validations without a better one; 0: never
    train.checkpoint_every_steps = 0  # 0: by time alone
    train.checkpoint_every_minutes = 10.0  # whichever comes first; 0: by steps alone
    train.keep_checkpoints = 3  # the newest; the best stays too

    # On top of what preprocess made, at no cost: drawn again each time a tile comes.
    train.augment = again = ml_collections.ConfigDict()
    again.flip = False  # mirrors along either axis, half of the time each
    again.quarter_turns = False  # turns by 0, 90, 180 or 270 degrees
    again.contrast = 0.0  # log factor on the deviation from the mean, up to
    again.brightness = 0.0  # added, in standard deviations of the frame, up to
    # These touch every pixel. On 572 px a core takes 8 ms for a blur up to 1.5 px, 33
    # for one up to 5 px, 11 for noise, 2 for a gradient.
    again.blur_px = 0.0  # deviation of a Gaussian filter, up to
    again.gradient = 0.0  # slope over the tile, in deviations of the frame, up to
    again.noise = 0.0  # deviation, in those of the frame, up to
    return config
