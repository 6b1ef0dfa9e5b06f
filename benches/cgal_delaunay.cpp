// The yardstick of benches/geometry.rs: the same points through CGAL's sequential Delaunay triangulation.
// A program of its own, never linked with the crate; geometry_cgal.sh builds and runs it.
//
// cgal_delaunay POINTS...: each file is [P, 3] f32, little-endian. Prints one line a file: path, points, CPU seconds of
// the build, CPU seconds of the extraction of the edges, number of edges, hash of the set of edges.
#include <CGAL/Delaunay_triangulation_3.h>
#include <CGAL/Exact_predicates_inexact_constructions_kernel.h>
#include <CGAL/Triangulation_vertex_base_with_info_3.h>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <utility>
#include <vector>

using Kernel = CGAL::Exact_predicates_inexact_constructions_kernel;
using Vertex = CGAL::Triangulation_vertex_base_with_info_3<uint32_t, Kernel>;
using Cell = CGAL::Delaunay_triangulation_cell_base_3<Kernel>;
using Delaunay = CGAL::Delaunay_triangulation_3<Kernel, CGAL::Triangulation_data_structure_3<Vertex, Cell>>;

static double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

// The finaliser of splitmix64; the sum over all edges does not depend on their order.
static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

int main(int argc, char **argv) {
  for (int arg = 1; arg < argc; arg++) {
    FILE *file = fopen(argv[arg], "rb");
    if (!file) {
      perror(argv[arg]);
      return 1;
    }
    std::vector<std::pair<Kernel::Point_3, uint32_t>> points;
    float p[3];
    while (fread(p, sizeof p, 1, file) == 1) points.emplace_back(Kernel::Point_3(p[0], p[1], p[2]), points.size());
    fclose(file);

    double start = cpu_seconds();
    Delaunay delaunay(points.begin(), points.end());
    double built = cpu_seconds();
    std::vector<std::pair<uint32_t, uint32_t>> edges;
    for (const auto &edge : delaunay.finite_edges()) {
      uint32_t a = edge.first->vertex(edge.second)->info(), b = edge.first->vertex(edge.third)->info();
      edges.emplace_back(std::min(a, b), std::max(a, b));
    }
    double extracted = cpu_seconds();
    uint64_t hash = 0;
    for (auto [a, b] : edges) hash += mix(uint64_t(a) << 32 | b);
    printf("%s %zu %.3f %.3f %zu %016lx\n", argv[arg], points.size(), built - start, extracted - built, edges.size(),
           (unsigned long)hash);
    fflush(stdout);
  }
}
