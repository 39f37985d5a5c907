#!/bin/bash
# Builds the packages from this checkout, as it lies here, into build/rpm.
#   scripts/rpm.sh rpm      what is installed; signed when RPM_SIGN_KEY names a key of gpg, whose passphrase gpg's agent asks for, unless
#                           it is in the file RPM_SIGN_PASSPHRASE_FILE
#   scripts/rpm.sh srpm     what they can be built from elsewhere, without network; in build/rpm/source, as dnf refuses to install one of those
#   scripts/rpm.sh twice    build them two times, in two places, the second time from the source package and without network, and compare
#                           every byte
# RPM_PYTHON=/usr/bin/python3.12: the Python that they are to run with, where it is not the newest in /usr/bin that the locks have wheels for.
# RPM_SELINUX=no: without gestalt-selinux, which is otherwise built where the tools for it are, for the policy that they are of.
# RPM_RELEASE=2: the same version, packaged anew. RPM_OUT: the folder for the packages, instead of build/rpm.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."
purpose=${1:-}
tree=$PWD
work=$tree/build/rpm
out=${RPM_OUT:-build/rpm}

die() { echo "rpm: $*" >&2; exit 1; }

# A package runs with the system's Python, and holds wheels for that version only.
python_of() {
  local found known
  if [ -z "${RPM_PYTHON:-}" ]; then
    found=$(scripts/find-python package) || exit 1
  else
    found=/usr/bin/python$("$RPM_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || die "RPM_PYTHON=$RPM_PYTHON does not run; name a Python such as /usr/bin/python3.12"
    known=$(scripts/find-python known | xargs)
    [[ " $known " == *" $found "* ]] || die "RPM_PYTHON=$RPM_PYTHON is Python ${found#/usr/bin/python}, for which the locks have no wheels; name one of $known"
    [ -x "$found" ] || die "a package runs with the system's Python, and there is no $found; RPM_PYTHON names another, one of $known"
  fi
  echo "${found#/usr/bin/python}"
}

# Fetch what is in the locks, unless it is here.
fetch() {
  local stamp
  stamp=$(cat requirements.lock packaging/build.lock packaging/wheels.py | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$wheels/.complete" 2>/dev/null)" = "$stamp" ]; then return; fi
  rm -rf "$wheels"
  mkdir -p "$wheels"
  [ -x "$tools/bin/pip" ] || "/usr/bin/python$python" -m venv "$tools"
  echo "fetching the wheels of requirements.lock for Python $python on $machine"
  "$tools/bin/python" packaging/wheels.py download "$python" "$machine" "$wheels" requirements.lock packaging/build.lock </dev/null
  echo "$stamp" >"$wheels/.complete"
}

# The bytes depend on names and contents only.
archive() {
  tar --create --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r,go-w,a+X "$@"
}

sources() {
  mkdir -p "$1"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' name; do
    if [ -e "$name" ] || [ -L "$name" ]; then printf '%s\0' "$name"; fi
  done | LC_ALL=C sort -z | archive --file "$1/gestalt-$version.tar" --transform "s,^,gestalt-$version/,S" --null --no-recursion --files-from -
  archive --file "$1/gestalt-$version-wheels-cp${python/./}-$machine.tar" --exclude .complete --transform "s,^\.,wheels,S" -C "$wheels" .
  sed -e "s/^%global python_version .*/%global python_version $python/" -e "s/^\(Release: *\).*/\1${RPM_RELEASE:-1}%{?dist}/" packaging/gestalt.spec >"$1/gestalt.spec"
}

# make_source PLACE: lay out in PLACE what rpmbuild takes, anew, and make the source package of it. rpm writes into that how it would
# unpack the sources; so that this depends on no folder of ours, it is told of none. The folders of a
# build, which it makes beside them, are of no use.
make_source() {
  rm -rf "$1"
  sources "$1/SOURCES"
  (cd "$1/SOURCES" && run_rpmbuild "$1" "$1/SOURCES/gestalt.spec" -bs --define "_topdir ." --define "_sourcedir ." --define "_srcrpmdir $1" --define "_srcdefattr (-,root,root)")
  rm -rf "$1"/SOURCES/{BUILD,BUILDROOT,RPMS}
}

# make_packages PLACE [COMMAND...]: build what is installed from the source package that is there, as somebody elsewhere would; by rpmbuild
# that COMMAND runs.
make_packages() {
  local through=("${@:2}")
  run_rpmbuild "$1" "$(echo "$1"/*.src.rpm)" --rebuild --define "_topdir $1"
}

# run_rpmbuild PLACE FILE OPTION...
run_rpmbuild() {
  local place=$1 file=$2 options=("${@:3}")
  [ "${RPM_SELINUX:-}" != no ] || options+=(--without selinux)
  # A Debian has what is needed from its own packages, of which rpm knows nothing.
  if command -v dpkg >/dev/null; then options+=(--nodeps --load "$tree/packaging/macros.debian" --define "_dbpath $place/db"); fi
  if ! "${through[@]}" rpmbuild "${options[@]}" "$file" >"$place/log" 2>&1 </dev/null; then
    tail -n 40 "$place/log" >&2
    die "rpmbuild failed; all of what it said is in $place/log"
  fi
}

# What signing needs is looked at before anything is built.
check_key() {
  [ -n "${RPM_SIGN_KEY:-}" ] || return 0
  local program
  for program in rpmsign gpg; do
    command -v "$program" >/dev/null || die "$program is not installed, and RPM_SIGN_KEY asks for signatures; run: scripts/install-packages rpm"
  done
  gpg --batch --list-secret-keys -- "$RPM_SIGN_KEY" >/dev/null 2>&1 || die "there is no secret key of RPM_SIGN_KEY=$RPM_SIGN_KEY; gpg --list-secret-keys shows those that there are (GNUPGHOME: where)"
  case ${RPM_SIGN_PASSPHRASE_FILE:-} in *[\'%]*) die "RPM_SIGN_PASSPHRASE_FILE=$RPM_SIGN_PASSPHRASE_FILE: a path with ' or % cannot be told to rpmsign" ;; esac
  [ -z "${RPM_SIGN_PASSPHRASE_FILE:-}" ] || [ -r "$RPM_SIGN_PASSPHRASE_FILE" ] || die "RPM_SIGN_PASSPHRASE_FILE=$RPM_SIGN_PASSPHRASE_FILE cannot be read"
}

# sign FILE: the passphrase is in no argument; gpg reads it itself.
sign() {
  local options=(--define "_gpg_name $RPM_SIGN_KEY" --define "__gpg $(command -v gpg)")
  if [ -n "${RPM_SIGN_PASSPHRASE_FILE:-}" ]; then
    options+=(--define "_gpg_sign_cmd_extra_args --batch --pinentry-mode loopback --passphrase-file '$(realpath "$RPM_SIGN_PASSPHRASE_FILE")'")
  fi
  rpmsign "${options[@]}" --addsign "$1" >/dev/null || die "$(basename "$1") could not be signed: see the message above"
}

# hand_over FOLDER FILE...: put packages where they are expected, in place of older ones.
hand_over() {
  local folder=$1 file name
  mkdir -p "$folder"
  rm -f "$out"/gestalt-[0-9]*.src.rpm # where it lay once
  for file in "${@:2}"; do
    name=$(basename "$file")
    rm -f "$folder/${name%-*-*}"-[0-9]*.rpm
    [ -z "${RPM_SIGN_KEY:-}" ] || sign "$file"
    mv "$file" "$folder/$name"
    echo "$folder/$name"
  done
}

case $purpose in rpm | srpm | twice) ;; *) die "usage: scripts/rpm.sh rpm|srpm|twice" ;; esac
command -v rpmbuild >/dev/null || die "rpmbuild is not installed; run: scripts/install-packages rpm"
check_key
python=$(python_of)
mkdir -p "$work"
exec 9>"$work/lock"
flock 9
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' gestalt/__init__.py)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
machine=$(uname -m)
tools=$work/tools-$python
wheels=$work/wheels-$python-$machine
fetch
case $purpose in
  rpm)
    make_source "$work/build"
    make_packages "$work/build"
    hand_over "$out" "$work"/build/RPMS/*/*.rpm
    rm -rf "$work/build"
    ;;
  srpm)
    make_source "$work/build"
    hand_over "$out/source" "$work"/build/*.src.rpm
    rm -rf "$work/build"
    ;;
  twice)
    offline=(unshare --net)
    [ "$(id -u)" = 0 ] || offline=(unshare --map-root-user --net)
    "${offline[@]}" true || die "building without a network needs the right to make a network namespace: see the message above"
    for place in first the-second-time; do make_source "$work/$place"; done
    make_packages "$work/first"
    make_packages "$work/the-second-time" "${offline[@]}"
    (cd "$work/first" && sha256sum RPMS/*/*.rpm ./*.src.rpm) >"$work/sums"
    (cd "$work/the-second-time" && sha256sum --check --quiet "$work/sums") || die "two builds of the same differ; they are in build/rpm/first and build/rpm/the-second-time"
    hand_over "$out" "$work"/first/RPMS/*/*.rpm
    hand_over "$out/source" "$work"/first/*.src.rpm
    rm -rf "$work/first" "$work/the-second-time" "$work/sums"
    ;;
esac
