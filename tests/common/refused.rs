//! A file system without links and locks, as some that are mounted over a network have none: simulated.

use std::io;

/// From now on, links (EPERM) and locks (ENOLCK) are refused to this thread and what it starts. Fails where the system has
/// no such filters.
pub fn refuse_links_and_locks() -> io::Result<()> {
    let step = |code: u32, jt, k: u32| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let refuse = |number: i64, error: i32| {
        // Over the answer, unless this is the call.
        let is_call =
            libc::sock_filter { jf: 1, ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, number as u32) };
        [is_call, step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | error as u32)]
    };
    // The number of the call comes first in what the filter sees.
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    #[cfg(target_arch = "x86_64")]
    filter.extend(refuse(libc::SYS_link, libc::EPERM));
    filter.extend(refuse(libc::SYS_linkat, libc::EPERM));
    filter.extend(refuse(libc::SYS_flock, libc::ENOLCK));
    filter.push(step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes numbers alone.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `program` and its filter live until the kernel has copied them.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
