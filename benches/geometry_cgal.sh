#!/bin/sh
# The benchmark `geometry` and CGAL's sequential triangulation on the same points, one after the other on one thread:
# CPU seconds, their ratio, and whether the sets of edges are equal. Needs a C++ compiler and Debian's libcgal-dev;
# CGAL is a separate program here and no part of the crate. RADFOAM_BENCH_POINTS and RADFOAM_BENCH_RUNS as there.
set -eu
cd "$(dirname "$0")/.."
export RADFOAM_BENCH_POINTS="${RADFOAM_BENCH_POINTS:-100000,1000000}"
scratch="$(mktemp -d)"
trap 'rm -r "$scratch"' EXIT

# -ffp-contract=off: fused multiply-add would break CGAL's exact predicates too.
"${CXX:-c++}" -std=c++17 -O3 -DNDEBUG -march=native -ffp-contract=off benches/cgal_delaunay.cpp -o "$scratch/cgal" \
    -lgmp -lmpfr
RADFOAM_BENCH_WRITE="$scratch" cargo bench --quiet --bench geometry
for size in $(echo "$RADFOAM_BENCH_POINTS" | tr ',' ' '); do
    for set in uniform clustered scene; do
        RADFOAM_BENCH_POINTS="$size" RADFOAM_BENCH_SETS="$set" cargo bench --quiet --bench geometry \
            > "$scratch/own.txt"
        "$scratch/cgal" "$scratch/${set}_$size.f32" > "$scratch/cgal.txt"
        # The stage's name may have spaces, so that its columns are counted from the end.
        awk -v name="$set $size" '
            NR == FNR { build = $3; both = $3 + $4; edges = $5; hash = $6; next }
            $3 == "edges" { equal = ($4 == edges && $5 == hash) ? "equal" : "DIFFERENT"; next }
            $1 == "set" || NF < 6 || /Repair|Rebuilt/ { next }
            {
                stage = $3
                for (i = 4; i <= NF - 3; i++) stage = stage " " $i
                of = stage == "build + csr" ? both : build
                printf "%-18s %-18s %8.3f s  %6.3f of CGAL %s\n", name, stage, $(NF - 2), $(NF - 2) / of, \
                    stage == "build + csr" ? "build + edges" : "build"
            }
            END { printf "%-18s CGAL: build %.3f s, with edges %.3f s; edge sets %s\n", name, build, both, equal }
        ' "$scratch/cgal.txt" "$scratch/own.txt"
    done
done
