#!/bin/sh
# From a bare Debian machine to features of real photographs.
#   ./quickstart.sh                a demonstration model on sample photographs
#   ./quickstart.sh MODEL FOLDER   your weights (hub .pth, safetensors or dinov) on your pictures
# Safe to run again: what is there is kept.
set -eu

say() { printf '\n== %s\n' "$*"; }

case $# in
0) ;;
2)
    model=$(realpath -e "$1")
    photos=$(realpath -e "$2")
    ;;
*) echo "usage: ./quickstart.sh [MODEL FOLDER]" >&2; exit 64 ;;
esac
cd "$(dirname "$0")"

say "installing what is needed and building (build/bin)"
.ci/install build
mkdir -p build/demo
log=build/demo/build.log
{ cmake --preset release -DDINOV_TESTS=OFF && cmake --build --preset release; } >$log 2>&1 || { tail -n 30 $log >&2; exit 3; }

if [ $# = 0 ]; then
    model=demo/grocery.safetensors photos=build/demo/photos
    say "fetching sample photographs ($photos)"
    if [ ! -d $photos ]; then
        # scikit-image's Debian package carries a few real photographs; only its data is unpacked.
        (
            mkdir -p build/demo/package && cd build/demo/package
            apt-get download python3-skimage >/dev/null 2>&1 || { apt-get update >/dev/null 2>&1 && apt-get download python3-skimage >/dev/null; }
            dpkg-deb -x python3-skimage_*.deb .
        )
        mkdir -p $photos.new
        for name in astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg moon.png rocket.jpg; do
            found=$(find build/demo/package -name "$name" | head -n 1)
            [ -z "$found" ] || cp "$found" $photos.new/
        done
        [ -n "$(ls $photos.new)" ] || { echo "no photographs in the package" >&2; exit 3; }
        mv $photos.new $photos
        rm -rf build/demo/package
    fi
fi

out=build/demo/features
rm -rf $out
say "extracting features: one CLS vector a picture, and patch tokens"
echo "build/bin/dinov-infer -m $model -o $out --features cls,patch $photos"
code=0
build/bin/dinov-infer -m "$model" -o $out --features cls,patch "$photos" || code=$?
# 4: more bad pictures than --max-bad allows; the good ones are there all the same.
[ $code = 0 ] || [ $code = 4 ] || exit $code

say "what came out ($out)"
build/bin/dinov-infer --ls $out | head -n 40
ls -l $out
say "the model"
case $model in
demo/*)
    build/bin/dinov-ckpt verify --run $model
    echo "trained by dinov-train on photographs of groceries, to show that everything works: demo/README.md"
    ;;
*) build/bin/dinov-ckpt show "$model" | head -n 13 ;;
esac
cat <<TXT

Next: numpy.load("$out/part-000000.cls.npy") in Python, or
  build/bin/dinov-convert dinov2_vits14_pretrain.pth -o vits14.safetensors     keep your weights as one file
  build/bin/dinov-infer --help                                                 sizes, layers, patch tokens
TXT
exit $code
