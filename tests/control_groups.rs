//! What is left of the limits of control groups, of folders made up for it.

#[allow(dead_code, reason = "what the program asks of it besides")]
#[path = "../examples/support/memory.rs"]
mod memory;

use std::fs;

const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
const V1: &str = "34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
const UNLIMITED: &str = "9223372036854771712";

#[test]
fn the_tightest_limit_on_the_way_up_counts() {
    // The files, below the mounted folder: as `memory.max`, or `a/b/memory.max`.
    type Files<'a> = &'a [(&'a str, &'a str)];
    // What it is, the mounts, the groups of this process, where the files are, and what is left.
    type Case<'a> = (&'a str, &'a str, &'a str, &'a str, Files<'a>, Option<u64>);
    let cases: [Case; 13] = [
        ("no limits", V2, "0::/a", "sys/fs/cgroup", &[("a/memory.max", "max"), ("a/memory.current", "7")], None),
        ("its own", V2, "0::/a", "sys/fs/cgroup", &[("a/memory.max", "100"), ("a/memory.current", "7")], Some(93)),
        (
            "of the one around it",
            V2,
            "0::/a/b",
            "sys/fs/cgroup",
            &[
                ("a/memory.max", "50"),
                ("a/memory.current", "20"),
                ("a/b/memory.max", "100"),
                ("a/b/memory.current", "7"),
            ],
            Some(30),
        ),
        (
            "of one without its own",
            V2,
            "0::/a/b/c",
            "sys/fs/cgroup",
            &[
                ("a/memory.max", "50"),
                ("a/memory.current", "20"),
                ("a/b/memory.max", "max"),
                ("a/b/memory.current", "7"),
            ],
            Some(30),
        ),
        (
            "memory.high",
            V2,
            "0::/a",
            "sys/fs/cgroup",
            &[("a/memory.max", "100"), ("a/memory.high", "80"), ("a/memory.current", "7")],
            Some(73),
        ),
        (
            "the cache can go",
            V2,
            "0::/a",
            "sys/fs/cgroup",
            &[
                ("a/memory.max", "100"),
                ("a/memory.current", "60"),
                ("a/memory.stat", "anon 20\ninactive_file 30\nactive_file 5\n"),
            ],
            Some(70),
        ),
        (
            "more used than allowed",
            V2,
            "0::/a",
            "sys/fs/cgroup",
            &[("a/memory.high", "50"), ("a/memory.current", "60")],
            Some(0),
        ),
        (
            "in a container, its own group mounted as the root",
            V2,
            "0::/",
            "sys/fs/cgroup",
            &[("memory.max", "100"), ("memory.current", "1")],
            Some(99),
        ),
        (
            "version 1",
            V1,
            "5:cpu:/x\n4:memory,hugetlb:/a/b\n0::/",
            "sys/fs/cgroup/memory",
            &[
                ("memory.limit_in_bytes", UNLIMITED),
                ("memory.usage_in_bytes", "500"),
                ("a/memory.limit_in_bytes", "100"),
                ("a/memory.usage_in_bytes", "30"),
                ("a/memory.stat", "inactive_file 1\ntotal_inactive_file 10\n"),
                ("a/b/memory.limit_in_bytes", UNLIMITED),
                ("a/b/memory.usage_in_bytes", "20"),
            ],
            Some(80),
        ),
        (
            "version 1 in a container that sees the names outside",
            "35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            "4:memory:/docker/1",
            "sys/fs/cgroup/memory",
            &[("memory.limit_in_bytes", "100"), ("memory.usage_in_bytes", "30")],
            Some(70),
        ),
        (
            "a name that is not here",
            V1,
            "4:memory:/docker/1",
            "sys/fs/cgroup/memory",
            &[("memory.limit_in_bytes", "100"), ("memory.usage_in_bytes", "30")],
            Some(70),
        ),
        (
            "both versions",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "4:memory:/a\n0::/a",
            "sys/fs/cgroup/memory",
            &[("a/memory.limit_in_bytes", "100"), ("a/memory.usage_in_bytes", "30")],
            Some(70),
        ),
        ("none", "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", "0::/", "sys/fs/cgroup", &[], None),
    ];
    let mut failures = Vec::new();
    for (case, mounts, groups, top, files, expected) in cases {
        let root = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, format!("{text}\n")).expect("written");
        };
        write("proc/self/mountinfo", mounts.trim_end());
        write("proc/self/cgroup", groups);
        for (name, text) in files {
            write(&format!("{top}/{name}"), text);
        }
        let found = memory::control_groups(root.path());
        if found != expected {
            failures.push(format!("{case}: {found:?}, expected {expected:?}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    // Of this machine, whatever it has.
    println!("control groups: {:?}", memory::control_groups("/".as_ref()));
    assert!(!cfg!(target_os = "linux") || memory::available().is_some());
}
