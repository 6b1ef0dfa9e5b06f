//! Memory and open files, as far as the system tells.

use std::fs;
use std::path::Path;

/// Resident memory of this process in bytes.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The largest resident memory of this process so far in bytes.
pub fn most_resident() -> Option<u64> {
    status("VmHWM:")
}

/// Files, folders and sockets that this process has open.
pub fn open_files() -> Option<usize> {
    // The listing is itself one.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// Memory in bytes that this process can still take without another giving it up: what the machine has, and what the
/// control groups and the process are allowed to have.
pub fn available() -> Option<u64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    machine.into_iter().chain(control_groups(Path::new("/"))).chain(address_space()).min()
}

fn status(field: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, field)
}

/// The value of a line such as `VmRSS:   1234 kB`, in bytes.
pub fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

/// What is left of the tightest limit among the control group of this process and those that it is in, as containers
/// have them: `memory.max` and `memory.high` of version 2, `memory.limit_in_bytes` of version 1. `root` is `/`.
pub fn control_groups(root: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(root.join("proc/self").join(name)).ok();
    let (groups, mounts) = (read("cgroup")?, read("mountinfo")?);
    let left = |mount: &Mount| {
        let group = groups.lines().find_map(|line| {
            // As `0::/group` for version 2, and as `4:memory:/group`, maybe with others, for version 1.
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let is_this =
                if mount.is_v2 { controllers.is_empty() } else { controllers.split(',').any(|c| c == "memory") };
            is_this.then_some(path)
        })?;
        // Of another namespace, it has no folder here; the mounted one is then an ancestor of it, or itself.
        let group = Path::new(group);
        let below = group.strip_prefix(mount.root).or(group.strip_prefix("/")).unwrap_or(Path::new(""));
        let top = root.join(mount.at.trim_start_matches('/'));
        let folders = below.ancestors().map(|group| top.join(group));
        folders.filter_map(|folder| left_in(&folder, mount.is_v2)).min()
    };
    mounts.lines().filter_map(Mount::parse).filter_map(|mount| left(&mount)).min()
}

/// Where a hierarchy of control groups is mounted that may limit memory.
struct Mount<'a> {
    /// The group that is mounted.
    root: &'a str,
    at: &'a str,
    is_v2: bool,
}

impl<'a> Mount<'a> {
    /// From a line as `35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (mount.next()?, mount.next()?);
        let system: Vec<&str> = system.split(' ').collect();
        match system[..] {
            ["cgroup2", ..] => Some(Self { root, at, is_v2: true }),
            ["cgroup", .., options] if options.split(',').any(|o| o == "memory") => {
                Some(Self { root, at, is_v2: false })
            }
            _ => None,
        }
    }
}

/// What is left of the limit of one control group; none where it has no limit.
fn left_in(folder: &Path, is_v2: bool) -> Option<u64> {
    // The word `max` is for none.
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limits, used) = if is_v2 {
        (&["memory.max", "memory.high"][..], "memory.current")
    } else {
        (&["memory.limit_in_bytes"][..], "memory.usage_in_bytes")
    };
    let limit = limits.iter().filter_map(|name| number(name)).min()?;
    // The file cache counts as used, and is given up when memory is short. In version 1 that of the groups below has a
    // line of its own, which includes the group's.
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let field = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let cache = field("total_inactive_file ").or(field("inactive_file ")).unwrap_or(0);
    Some(limit.saturating_sub(number(used)?.saturating_sub(cache)))
}

/// What is left of `ulimit -v`.
fn address_space() -> Option<u64> {
    #[cfg(unix)]
    {
        let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
        Some(limit.saturating_sub(status("VmSize:")?))
    }
    #[cfg(not(unix))]
    None
}
