#!/usr/bin/env bash
# Everything that needs a GPU, from stripped programs alone: tests, NVIDIA's checkers where they are installed, times.
# Prints one table at the end.
#   usage: gpu-check.sh TESTS [BENCH]
#     TESTS: tests/gpu.rs built with --features cuda (cargo test --features cuda --test gpu --no-run; strip)
#     BENCH: benches/device.rs likewise (cargo bench --features cuda --bench device --no-run; strip)
# Libraries of CUDA (libcublas, libcurand) are looked for where LD_LIBRARY_PATH says, then anywhere.
set -uo pipefail
tests=$(realpath "${1:?the program of tests/gpu.rs}") bench=${2:+$(realpath "$2")}
export REQUIRE_CUDA=1

missing() { ldd "$1" | awk '/not found/ { print $1 }'; }
if [ -n "$(missing "$tests")" ]; then
  found=$(find / -xdev \( -name 'libcublas.so.1?' -o -name 'libcurand.so.10' -o -name 'libnvrtc.so.1?' \) -printf '%h\n' \
    2> /dev/null | sort -u | paste -sd:)
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
fi
if [ -n "$(missing "$tests")" ]; then
  echo "these libraries are nowhere: $(missing "$tests" | paste -sd' ')" >&2
  exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rows=() failed=0
check() { # name command...
  local name=$1 start=$SECONDS result=passed; shift
  echo "=== $name"
  if ! "$@" > "$scratch/log" 2>&1; then
    # Where the checker refuses the machine, nothing was checked and nothing has failed.
    if [[ $1 == *compute-sanitizer ]] && grep -q 'Device not supported' "$scratch/log"; then
      result='not run'
    else
      result=FAILED failed=1
    fi
    tail -n 60 "$scratch/log"
  fi
  rows+=("$(printf '| %-12s | %-8s | %4d s |' "$name" "$result" $((SECONDS - start)))")
}

check tests "$tests" --test-threads=1
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | tail -n 1)
for tool in memcheck racecheck initcheck synccheck; do
  if [ -n "$sanitizer" ]; then
    check "$tool" "$sanitizer" --tool "$tool" --error-exitcode 1 "$tests" --test-threads=1
  else
    rows+=("$(printf '| %-12s | %-8s | %6s |' "$tool" 'not run' '')")
  fi
done
if [ -n "$bench" ]; then
  check times "$bench" --bench
  cp "$scratch/log" "$scratch/times"
fi

echo
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null
printf '| %-12s | %-8s | %6s |\n|---|---|---|\n' check result ''
printf '%s\n' "${rows[@]}"
[ -n "$sanitizer" ] || echo "compute-sanitizer is not installed: its checks have NOT run"
[ ! -s "$scratch/times" ] || { echo; cat "$scratch/times"; }
exit $failed
