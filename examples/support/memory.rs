//! Memory and open files, as far as the system tells.

use std::fs;

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
/// control group and the process are allowed to have.
pub fn available() -> Option<u64> {
    let machine = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    machine.into_iter().chain(control_group()).chain(address_space()).min()
}

fn status(field: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, field)
}

/// The value of a line such as `VmRSS:   1234 kB`, in bytes.
pub fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

/// What is left of the limit of the control group, as a container has one: version 2, or version 1.
fn control_group() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let (limit, used, inactive) = match number("/sys/fs/cgroup/memory.max") {
        Some(limit) => (limit, number("/sys/fs/cgroup/memory.current")?, "/sys/fs/cgroup/memory.stat"),
        None => (
            number("/sys/fs/cgroup/memory/memory.limit_in_bytes")?,
            number("/sys/fs/cgroup/memory/memory.usage_in_bytes")?,
            "/sys/fs/cgroup/memory/memory.stat",
        ),
    };
    // The file cache counts as used, and is given up when memory is short.
    let stat = fs::read_to_string(inactive).unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok());
    Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
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
