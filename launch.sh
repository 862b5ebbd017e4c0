#!/usr/bin/env bash
# Every way in: sets up the environment if it isn't there, then runs a command.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Or `python -m` would import whatever json.py lies in the folder where it is typed, which
# may be a folder of images from anywhere.
export PYTHONSAFEPATH=1

usage() {
  cat <<'TEXT'
usage: ./launch.sh COMMAND [--flag=value ...]        (COMMAND --help lists its flags)

  demo        everything on drawn data, in minutes; --config.KEY=VALUE may follow
              ./launch.sh demo
  test        lint, types and tests, in minutes; `test quick` leaves the slow ones out,
              `test all` adds those that repeat a shorter one on a larger scale
              ./launch.sh test
  setup       the environment alone, in .venv-cpu, or .venv-gpu on a machine with a GPU
              PYTHON=python3.13 ./launch.sh setup
  exec        any program of the environment
              ./launch.sh exec tensorboard --logdir runs/u373/train
  doctor      looks at this machine, its packages, GPUs, folders and buckets; names the cures
              ./launch.sh doctor --input=gs://BUCKET/raw --output=gs://BUCKET/data
  draw        microscopy-like images with exact truth
              ./launch.sh draw --kind=cells --output=runs/raw
  preprocess  images and labels to TFRecord shards; every Beam option can follow
              ./launch.sh preprocess --config=configs/phc_u373.py:cpu \
                --input=DIR --output=runs/u373/data
  verify      reads a data set back and lists all that is wrong with it
              ./launch.sh verify --data=runs/u373/data
  preview     contact sheets of a data set and one HTML page: tiles, labels, weights
              ./launch.sh preview --data=runs/u373/data --output=runs/u373/preview
  train       shards to checkpoints, on all GPUs or else the processor
              ./launch.sh train --config=configs/phc_u373.py:cpu \
                --data=runs/u373/data --workdir=runs/u373/train
  evaluate    scores on whole frames never trained on, and report.html; --tune first finds
              the post-processing on validation frames
              ./launch.sh evaluate --workdir=runs/u373/train --input=DIR
  cross_validate  a training for each block of frames, scored together
              ./launch.sh cross_validate --config=configs/phc_u373.py:cpu \
                --input=DIR --workdir=runs/u373/folds --folds=5
  compare     scores and curves of runs side by side
              ./launch.sh compare runs/u373/train runs/other/train
  export      a SavedModel for raw images of any size; --publish to where a server polls
              ./launch.sh export --workdir=runs/u373/train --output=runs/u373/export
  predict     a SavedModel over images: masks, overlays, instances, probabilities
              ./launch.sh predict --model=runs/u373/export --input=DIR/01 --output=OUT
  benchmark   how fast it all is, beside its peers: JSON and a page in benchmarks/results/;
              --what=NAME is one of benchmarks/*.py, with flags of its own
              ./launch.sh benchmark
  summary     the network's layers
              ./launch.sh summary --config=configs/phc_u373.py
  lock        new exact versions in requirements/*.lock (needs uv)
              ./launch.sh lock

UNET_FLAVOUR=cpu, gpu or io before any of them takes that environment, whatever the
machine has: a login node sets up the one for its GPU nodes with UNET_FLAVOUR=gpu. io is
TensorFlow 2.17 with tensorflow-io, for programs of your own (docs/storage.md)
UNET_VENV=DIR has the environment elsewhere.
TEXT
}

say() { printf '[launch] %s\n' "$*" >&2; }

find_python() {
  local candidate
  local candidates=(python3.11 python3.12 python3.13 python3 python) end=14
  [[ $UNET_FLAVOUR == io ]] && end=13  # TensorFlow 2.17 has no wheels beyond
  [[ -n "${PYTHON:-}" ]] && candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c \
      "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, $end))" \
      >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  say "${PYTHON:-what is installed here} is not Python 3.11 to 3.$((end - 1));" \
    "install one, or name it: PYTHON=/path ./launch.sh setup"
  return 1
}

# The CPU wheel where there is no NVIDIA GPU; with CUDA's libraries where there is.
find_flavour() {
  if [[ -n $UNET_FLAVOUR ]]; then
    echo "$UNET_FLAVOUR"
  elif [[ -n ${UNET_VENV:-} && -f $UNET_VENV/.complete ]]; then
    cut -d' ' -f1 "$UNET_VENV/.complete"  # whatever machine this is
  elif [[ $(nvidia-smi -L 2>/dev/null) == *GPU* ]]; then
    echo gpu
  else
    echo cpu
  fi
}

# What the environment was made from: another lock installs into it again.
fingerprint() {
  cat "$root/requirements/$1.lock" "$root/pyproject.toml" | cksum
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

# Whether the environment has to go: another Python was asked for, or UNET_VENV has one
# of another flavour (TensorFlow's two wheels overwrite each other's files).
is_of_another_kind() {
  [[ -f "$venv/.complete" && $(cut -d' ' -f1 "$venv/.complete") != "$flavour" ]] && return 0
  [[ -n "${PYTHON:-}" && $(version_of "$PYTHON") != "$(version_of "$python")" ]]
}

is_complete() {
  [[ -x "$python" && -f "$stamp" ]] &&
    [[ $(cat "$stamp") == "$flavour $(fingerprint "$flavour")" ]]
}

# One at a time: the nodes of a cluster may start on the same folder at once.
setup() {
  if is_complete && [[ -z "${PYTHON:-}" ]]; then
    return
  fi
  mkdir -p "$(dirname "$venv")"
  exec 9>"$venv.lock"
  if command -v flock >/dev/null && ! flock --nonblock 9; then
    say "waiting: another launch.sh is setting up $venv"
    flock 9
  fi
  # What launch.sh has not made, it neither installs into nor removes.
  if [[ -n $(ls -A "$venv" 2>/dev/null) && ! -f "$venv/pyvenv.cfg" ]]; then
    say "$venv is no virtual environment, and not empty; UNET_VENV=another folder"
    exit 2
  fi
  if [[ -n "${PYTHON:-}" ]]; then
    PYTHON=$(find_python) || exit 1  # before anything is removed for its sake
  fi
  if ! is_complete || is_of_another_kind; then
    install
  fi
  exec 9>&-
}

install() {
  if [[ -x "$python" ]] && is_of_another_kind; then
    say "remaking $venv: another Python or flavour"
    rm -rf "$venv"
  fi
  # Half a package, of a disk that was full, counts as installed to pip.
  if [[ -x "$python" && -f "$venv/.installing" ]]; then
    say "remaking $venv: its last installation did not end"
    rm -rf "$venv"
  fi
  if [[ ! -x "$python" ]]; then
    local base
    base=$(find_python) || exit 1
    say "making $venv with $("$base" --version)"
    if ! "$base" -m venv "$venv"; then
      rm -rf "$venv"  # which was empty, or an environment without its Python
      say "$base cannot make a virtual environment; on Debian: apt install python3-venv"
      exit 1
    fi
  fi
  rm -f "$stamp"
  touch "$venv/.installing"
  say "installing requirements/$flavour.lock (about 3 GB on disk; minutes, once)"
  # The lock is complete: resolving again would, for a package's extra, look beyond it
  # to whatever was released since, and refuse that for want of a hash.
  "$python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    --no-deps -r "$root/requirements/$flavour.lock"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation -e "$root"
  rm "$venv/.installing"
  echo "$flavour $(fingerprint "$flavour")" >"$stamp"
  say "ready: $venv"
}

# Several checkouts may share an environment: each runs its own code.
ready() {
  setup
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"  # not before: pip would look there
}

lock() {
  local kind
  for kind in cpu gpu io; do
    local extras=(--extra "$kind")
    [[ $kind == io ]] || extras+=(--extra test)
    uv pip compile "$root/pyproject.toml" "${extras[@]}" --universal \
      --python-version 3.11 --no-annotate --generate-hashes --quiet --upgrade \
      --override "$root/requirements/$kind.override" \
      --custom-compile-command "./launch.sh lock" -o "$root/requirements/$kind.lock"
  done
  # What workers far away install: without TensorFlow, in the versions of here, because
  # other versions of OpenCV may make other bytes.
  uv pip compile "$root/pyproject.toml" --extra zarr --universal --python-version 3.11 \
    --no-annotate --quiet --override "$root/requirements/cpu.override" \
    --constraint "$root/requirements/cpu.lock" \
    --custom-compile-command "./launch.sh lock" -o "$root/requirements/worker.txt"
}

# More --config.KEY=VALUE go to both commands that take a config.
demo() {
  cd "$root"
  local out=runs/demo
  set -- --config=configs/synthetic.py:cpu "$@"
  say "1/6 draw cells"
  "$python" -m preprocess.draw --kind=cells --output=$out/raw
  say "2/6 preprocess"
  "$python" -m preprocess.main "$@" --input=$out/raw --output=$out/data
  say "3/6 train"
  "$python" -m trainer.main train "$@" --data=$out/data --workdir=$out/train
  say "4/6 evaluate"
  "$python" -m trainer.main evaluate --workdir=$out/train --input=$out/raw --tune
  "$python" -m trainer.main evaluate --workdir=$out/train --input=$out/raw \
    | tee $out/scores.txt
  say "5/6 export"
  local model
  model=$("$python" -m trainer.main export --workdir=$out/train --output=$out/export)
  say "6/6 predict"
  "$python" -m trainer.main predict --model=$out/export --input=$out/raw/01 \
    --output=$out/predictions
  echo
  echo "data         $out/data/dataset_info.json"
  echo "run          $out/train  (./launch.sh exec tensorboard --logdir $out/train)"
  echo "report       $out/train/report.html"
  echo "model        $model"
  echo "predictions  $out/predictions/*.png"
  cat $out/scores.txt
}

# With what is there: a doctor that first installed all would be no help to the sick.
doctor() {
  local with=$python
  [[ -x "$with" ]] || with=$(find_python) || exit 1
  PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$with" -m doctor.main "$@"
}

# All of them, or the one that --what names.
benchmark() {
  local what=main
  if [[ ${1:-} == --what=* ]]; then
    what=${1#--what=}
    shift
  fi
  if [[ -z $what || $what == */* || ! -f "$root/benchmarks/$what.py" ]]; then
    say "benchmark --what=$what: one of" "$(cd "$root/benchmarks" && echo *.py)"
    exit 2
  fi
  exec "$python" "$root/benchmarks/$what.py" "$@"
}

run_tests() {
  if [[ $flavour == io ]]; then
    say "tests run in the plain environment, and make the other; leave out UNET_FLAVOUR"
    exit 2
  fi
  setup
  cd "$root"
  unset PYTHONSAFEPATH  # tests import each other from here
  unset PYTHONDONTWRITEBYTECODE  # or the processes they start compile all of it, each
  say "ruff"
  "$python" -m ruff format --check --quiet .
  "$python" -m ruff check --quiet .
  local alone=
  case ${1:-} in
    quick) shift; set -- -m "not slow and not long" "$@" ;;
    all) shift; (($#)) || alone=tests/engines ;;  # each of them takes all cores
    "") set -- -m "not long" ;;
    *) ;;  # what the user names, long or not
  esac
  say "mypy, pytest"
  local types tests=0 log
  log=$(mktemp)
  "$python" -m mypy >"$log" 2>&1 &
  types=$!
  # Whole files to each of three processes: fixtures are shared within a file. Two left
  # cores idle wherever a test waits (docs/decisions.md); more were not tried.
  "$python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
    ${alone:+--ignore=$alone} "$@" || tests=$?
  [[ -z $alone ]] || "$python" -m pytest "$alone" || tests=$?
  wait "$types" || tests=1
  cat "$log"
  rm "$log"
  return "$tests"
}

UNET_FLAVOUR=${UNET_FLAVOUR:-${UNET_EXTRA:-}}  # as it was called before
if [[ -n $UNET_FLAVOUR && ! $UNET_FLAVOUR =~ ^(cpu|gpu|io)$ ]]; then
  say "UNET_FLAVOUR=$UNET_FLAVOUR: cpu, gpu or io, or leave it out"
  exit 2
fi
flavour=$(find_flavour)
venv=$(realpath -m "${UNET_VENV:-$root/.venv-$flavour}")
python="$venv/bin/python"
stamp="$venv/.complete"
command=${1:-help}
[[ $# -gt 0 ]] && shift
# What has flags of its own tells them itself.
if [[ " demo test setup lock " == *" $command "* && ${1:-} =~ ^(-h|--help)$ ]]; then
  command=help
fi
case "$command" in
  help | -h | --help) usage ;;
  setup) setup ;;
  lock) lock ;;
  demo) ready; demo "$@" ;;
  test) run_tests "$@" ;;
  doctor) doctor "$@" ;;
  draw) ready; exec "$python" -m preprocess.draw "$@" ;;
  verify) ready; exec "$python" -m unet_tfrecords.dataset.verify "$@" ;;
  preview) ready; exec "$python" -m unet_tfrecords.dataset.preview "$@" ;;
  preprocess) ready; exec "$python" -m preprocess.main "$@" ;;
  exec)
    if [[ $# -eq 0 ]]; then
      say "exec PROGRAM ...: which program of the environment?"
      exit 2
    fi
    ready
    PATH="$venv/bin:$PATH" exec "$@"
    ;;
  benchmark) ready; benchmark "$@" ;;
  train | evaluate | cross_validate | compare | export | predict | summary)
    ready
    exec "$python" -m trainer.main "$command" "$@"
    ;;
  *)
    say "no command '$command'"
    usage >&2
    exit 2
    ;;
esac
