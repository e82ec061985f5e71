#!/usr/bin/env bash
# Build one of the images of this folder with whatever engine is at hand. See docs/docker.md.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: docker/build.sh [OPTION ...] TARGET

TARGET is desktop, edge-cpu, jetson-jp6 or jetson-jp7.

  --engine NAME      docker, podman or buildah   (default: the first of them that works here)
  --tag NAME         name of the image           (default: roadworthy:TARGET)
  --base IMAGE       base image instead of the Dockerfile's
  --bootstrap SUITE  make that base with debootstrap, e.g. trixie; needs buildah and root, but no image registry
  --arg NAME=VALUE   another build argument, e.g. EXTRAS=cpu,serve,trust,camera; may be repeated
  --platform NAME    e.g. linux/arm64, where the engine can run it
  --pip-conf FILE    pip's configuration during the build: a mirror of the package registry
  --ca FILE          certificates that pip trusts during the build (with --pip-conf: say `cert = /run/secrets/ca.pem` there)
  --storage FOLDER   where buildah keeps images  (default: /var/tmp/roadworthy-images)
  --dry-run          print the commands instead
USAGE
}

die() {
    echo "docker/build.sh: $1" >&2
    exit 2
}

engine='' tag='' base='' suite='' platform='' pip_conf='' ca='' dry=''
storage=/var/tmp/roadworthy-images
arguments=()
while (($#)); do
    case $1 in
    --engine | --tag | --base | --bootstrap | --arg | --platform | --pip-conf | --ca | --storage)
        (($# > 1)) || die "$1 needs a value (see --help)"
        case $1 in
        --engine) engine=$2 ;;
        --tag) tag=$2 ;;
        --base) base=$2 ;;
        --bootstrap) suite=$2 ;;
        --arg) arguments+=(--build-arg "$2") ;;
        --platform) platform=$2 ;;
        --pip-conf) pip_conf=$2 ;;
        --ca) ca=$2 ;;
        --storage) storage=$2 ;;
        esac
        shift 2
        ;;
    --dry-run) dry=yes && shift ;;
    --help | -h) usage && exit ;;
    -*) die "unknown option $1 (see --help)" ;;
    *) break ;;
    esac
done
(($# == 1)) || die "give one target (see --help)"
target=$1
cd "$(dirname "$0")/.."
file=docker/$target.Dockerfile
[[ -f $file ]] || die "unknown target '$target'; there are: $(basename -s .Dockerfile docker/*.Dockerfile | paste -sd' ')"
tag=${tag:-roadworthy:$target}

works() {
    case $1 in
    docker) docker info ;;
    podman) podman info ;;
    buildah) buildah --version ;;
    esac >/dev/null 2>&1
}

case $engine in
"" | docker | podman | buildah) ;;
*) die "unknown engine '$engine'; there are: docker podman buildah" ;;
esac
if [[ -z $engine && -n $suite ]]; then
    engine=buildah
elif [[ -z $engine ]]; then
    for each in docker podman buildah; do
        if works "$each"; then
            engine=$each
            break
        fi
    done
    [[ -n $engine ]] || die "no engine works here; install docker, podman or buildah, or start docker's service"
elif [[ -z $dry ]]; then
    works "$engine" || die "$engine does not work here; install it, or start its service"
fi
[[ -z $suite || $engine == buildah ]] || die "--bootstrap goes with buildah, not with $engine"
[[ -z $suite || -z $base ]] || die "--bootstrap and --base are given; leave one of the two out"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [[ -n $ca && -z $pip_conf ]]; then
    pip_conf=$scratch/pip.conf
    printf '[global]\ncert = /run/secrets/ca.pem\n' >"$pip_conf"
fi

run() {
    if [[ -n $dry ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# Neither a daemon nor user namespaces nor overlay mounts: what works in a build container too.
buildah_here() {
    run buildah --root "$storage/images" --runroot "$storage/run" --storage-driver vfs "$@"
}

# A base like Debian's own slim one: minimal, and told to leave documentation out of what is installed later.
bootstrap() {
    local folder=$storage/bootstrap
    run mkdir -p "$folder"
    run debootstrap --variant=minbase "$suite" "$folder/root"
    run install -D -m 0644 docker/slim-dpkg.conf "$folder/root/etc/dpkg/dpkg.cfg.d/slim"
    run find "$folder"/root/{usr/share/{doc,info,locale,man},var/{cache,log,lib/apt/lists}} -type f ! -name copyright -delete
    run tar --create --file "$folder/root.tar" --directory "$folder/root" .
    run cp docker/bootstrap.Containerfile "$folder/Containerfile"
    buildah_here build --format docker --tag "localhost/debian:$suite-bootstrap" --file "$folder/Containerfile" "$folder"
    run rm -rf "$folder"
}

if [[ -n $suite ]]; then
    bootstrap
    base=localhost/debian:$suite-bootstrap
fi
options=(--file "$file" --tag "$tag" "${arguments[@]}")
[[ -z $base ]] || options+=(--build-arg "BASE=$base")
[[ -z $platform ]] || options+=(--platform "$platform")
[[ -z $pip_conf ]] || options+=(--secret "id=pip,src=$pip_conf")
[[ -z $ca ]] || options+=(--secret "id=ca,src=$ca")
# Images of the OCI's own format have no health check.
case $engine in
docker) run docker build "${options[@]}" . ;;
podman) run podman build --format docker "${options[@]}" . ;;
buildah) buildah_here build --format docker --isolation chroot "${options[@]}" . ;;
esac
