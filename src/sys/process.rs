//! What a process is: ids, capabilities, limits, signals, seccomp, execve(2), its end.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Call, Result, SysError};

/// Ends the process at once by system call: no handlers, no buffers, no unwinding. A filter that answers exit_group(2)
/// with an error does not keep it: it falls into an illegal instruction.
pub fn exit_now(code: i32) -> ! {
    loop {
        // SAFETY: the call does not return, or touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
        #[cfg(target_arch = "x86_64")]
        // SAFETY: raises SIGILL, which ends even the first process of a pid namespace.
        unsafe {
            std::arch::asm!("ud2")
        };
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("udf #0")
        };
    }
}

/// SIGKILL to this process (test only). The first process of a pid namespace lives on and waits for it to come from outside.
#[cfg(feature = "faults")]
pub fn kill_self() -> ! {
    loop {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        rustix::event::pause();
    }
}

/// Makes the process non-dumpable, so that nobody in the container's namespaces may trace it or open its files through
/// /proc before execve (CVE-2016-9962).
pub fn set_nondumpable() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).call("prctl", || "PR_SET_DUMPABLE, 0".into())
}

/// Takes [`set_nondumpable`] back.
pub fn set_dumpable() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).call("prctl", || "PR_SET_DUMPABLE, 1".into())
}

/// PR_SET_NO_NEW_PRIVS.
pub fn set_no_new_privs() -> Result<()> {
    rustix::thread::set_no_new_privs(true).call("prctl", || "PR_SET_NO_NEW_PRIVS, 1".into())
}

/// PR_SET_KEEPCAPS: permitted capabilities outlive the change of the user id; execve(2) clears it.
pub fn keep_capabilities() -> Result<()> {
    rustix::thread::set_keep_capabilities(true).call("prctl", || "PR_SET_KEEPCAPS, 1".into())
}

/// Drops capabilities from the bounding set, up to the last that the kernel knows.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for cap in (0..64).filter(|c| keep & (1 << c) == 0) {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << cap)) {
            Err(rustix::io::Errno::INVAL) => break, // beyond CAP_LAST_CAP
            r => r.call("prctl", || format!("PR_CAPBSET_DROP, {cap}"))?,
        }
    }
    Ok(())
}

/// The bounding set, as far as the kernel knows capabilities.
pub fn bounding() -> u64 {
    let has = |cap: &u32| rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << cap));
    (0..64).map_while(|cap| has(&cap).ok().map(|has| u64::from(has) << cap)).sum()
}

/// capset(2): effective, permitted, inheritable as bit masks.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    rustix::thread::set_capabilities(None, sets)
        .call("capset", || format!("{{eff {effective:#x}, prm {permitted:#x}, inh {inheritable:#x}}}"))
}

/// The permitted capabilities that this process has.
pub fn permitted() -> Result<u64> {
    rustix::thread::capabilities(None).map(|s| s.permitted.bits()).call("capget", String::new)
}

/// Sets the ambient set to exactly `caps`, which must be permitted and inheritable.
pub fn set_ambient(caps: u64) -> Result<()> {
    rustix::thread::clear_ambient_capability_set().call("prctl", || "PR_CAP_AMBIENT_CLEAR_ALL".into())?;
    for cap in (0..64).filter(|c| caps & (1 << c) != 0) {
        rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << cap), true)
            .call("prctl", || format!("PR_CAP_AMBIENT_RAISE, {cap}"))?;
    }
    Ok(())
}

/// setgroups(2).
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let gids: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
    // There may be tens of thousands.
    let some = |n: usize| format!("{}, {:?}…", groups.len(), &groups[..n]);
    rustix::thread::set_thread_groups(&gids).call("setgroups", || some(groups.len().min(8)))
}

/// setresgid(2) and setresuid(2) to one id each.
pub fn set_ids(uid: u32, gid: u32) -> Result<()> {
    let (u, g) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(g, g, g).call("setresgid", || format!("{gid}"))?;
    rustix::thread::set_thread_res_uid(u, u, u).call("setresuid", || format!("{uid}"))
}

/// setsid(2); a session leader already is no error.
pub fn setsid() -> Result<()> {
    match rustix::process::setsid() {
        Err(rustix::io::Errno::PERM) => Ok(()),
        r => r.map(drop).call("setsid", String::new),
    }
}

/// setrlimit(2) of the resource with this number (`RLIMIT_*`); `u64::MAX` is no limit.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    set_rlimit_of(0, resource, soft, hard)
}

/// prlimit(2): the same of another process; of this one for 0.
pub fn set_rlimit_of(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let args = || format!("{pid}, {resource}, {{{soft}, {hard}}}");
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call; the kernel checks the numbers.
    let r = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    };
    if r == 0 { Ok(()) } else { Err(SysError::last("prlimit", args())) }
}

/// getrlimit(2): soft and hard limit of a process; of this one for 0.
pub fn rlimit(pid: i32, resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills `limit`, which outlives the call.
    let r = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, std::ptr::null::<libc::rlimit64>(), &raw mut limit)
    };
    if r == 0 { Ok((limit.rlim_cur, limit.rlim_max)) } else { Err(SysError::last("prlimit", format!("{resource}"))) }
}

/// Raises the soft limit of open files to the hard one and returns what it was, if it was lower.
pub fn raise_nofile() -> Option<(u64, u64)> {
    let old = rustix::process::getrlimit(Resource::Nofile);
    let (soft, hard) = (old.current.unwrap_or(u64::MAX), old.maximum.unwrap_or(u64::MAX));
    if soft >= hard {
        return None;
    }
    let raised = Rlimit { current: old.maximum, maximum: old.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).ok().map(|()| (soft, hard))
}

/// Gives the process every CPU that its cpuset allows. Since Linux 6.2 the kernel remembers the mask that a user asked
/// for, so a caller pinned to one CPU would pin the container; a mask of ones takes that back. `EINVAL` (none of the
/// CPUs is in the cpuset) and `EPERM` are no errors here: the mask stays as it is.
pub fn reset_affinity() {
    let all = [0xffu8; 1024];
    // SAFETY: the mask outlives the call and its length in bytes is given; CPUs that are not there are ignored.
    unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, all.len(), all.as_ptr()) };
}

/// Takes back what the caller, and Rust with SIGPIPE, ignore, and the signal mask: execve(2) keeps both.
pub fn reset_signals() -> Result<()> {
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        default_signal(signal)?;
    }
    nix::sys::signal::SigSet::empty().thread_set_mask().call("sigprocmask", || "SIG_SETMASK, []".into())
}

/// Puts a signal's disposition back to the default. By the system call, as the C library keeps 32 and 33 to itself.
pub fn default_signal(signal: i32) -> Result<()> {
    // The kernel's struct sigaction, all zero: SIG_DFL, no flags, no restorer, an empty mask of 8 bytes.
    let default = [0u64; 4];
    // SAFETY: the struct outlives the call, and is not longer on any architecture of 64 bits.
    let r = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) };
    if r == 0 { Ok(()) } else { Err(SysError::last("rt_sigaction", format!("{signal}, SIG_DFL"))) }
}

/// Joins a new session keyring of this name and lets its owner search it, as runc does. A kernel without keyrings
/// (ENOSYS) is no error.
pub fn join_session_keyring(name: &str) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    const KEYCTL_SETPERM: i32 = 5;
    // linux/keyctl.h; the permissions are those of include/linux/key.h: possessor all; user view, read, link, search.
    const PERMISSIONS: u32 = 0x3f00_0000 | 0x001b_0000;
    let c_name = CString::new(name).map_err(|_| SysError::new("keyctl", name, Errno::EINVAL))?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, c_name.as_ptr()) };
    if key < 0 {
        return match Errno::last() {
            Errno::ENOSYS => Ok(()),
            errno => Err(SysError::new("keyctl", format!("JOIN_SESSION_KEYRING, {name:?}"), errno)),
        };
    }
    // SAFETY: integers only.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, PERMISSIONS) };
    if r == 0 { Ok(()) } else { Err(SysError::last("keyctl", format!("SETPERM, {key}"))) }
}

/// Brings the loopback interface of this network namespace up (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .call("socket", || "AF_UNIX, SOCK_DGRAM".into())?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is an ifreq with its name and flags set, and outlives the call.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if r == 0 { Ok(()) } else { Err(SysError::last("ioctl", "SIOCSIFFLAGS, \"lo\"")) }
}

/// sethostname(2).
pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).call("sethostname", || format!("{name:?}"))
}

/// setdomainname(2).
pub fn set_domainname(name: &str) -> Result<()> {
    rustix::system::setdomainname(name.as_bytes()).call("setdomainname", || format!("{name:?}"))
}

/// Loads a seccomp filter, given as the bytes of an array of `struct sock_filter`; `flags` are
/// `SECCOMP_FILTER_FLAG_*` (seccomp(2)).
pub fn load_seccomp(bpf: &[u8], flags: u32) -> Result<()> {
    let count = bpf.len() / size_of::<libc::sock_filter>();
    let args = || format!("SET_MODE_FILTER, {flags:#x}, {count} instructions");
    let len = u16::try_from(count).map_err(|_| SysError::new("seccomp", args(), Errno::E2BIG))?;
    // The bytes came over a socket: copy them to where a sock_filter may lie.
    let filter: Vec<libc::sock_filter> = bpf
        .chunks_exact(size_of::<libc::sock_filter>())
        .map(|c| libc::sock_filter {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect();
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` instructions; the kernel only reads them, during the call.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if r == 0 { Ok(()) } else { Err(SysError::last("seccomp", args())) }
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: integers only; the flag closes nothing that somebody owns, before execve.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if r == 0 { Ok(()) } else { Err(SysError::last("close_range", format!("{first}, CLOEXEC"))) }
}

/// Closes every descriptor from `first` on, but for those of `kept`.
pub fn close_all_but(first: u32, mut kept: Vec<RawFd>) -> Result<()> {
    kept.sort_unstable();
    let mut from = first;
    for end in kept.into_iter().filter_map(|fd| u32::try_from(fd).ok()).chain([u32::MAX]) {
        // SAFETY: integers only; the caller sees to it that nothing that it closes is used any more.
        if end > from && unsafe { libc::syscall(libc::SYS_close_range, from, end - 1, 0) } != 0 {
            return Err(SysError::last("close_range", format!("{from}, {}", end - 1)));
        }
        from = from.max(end.saturating_add(1));
    }
    Ok(())
}

/// Argument vectors for execve(2), made before the last moment: [`Exec::run`] allocates nothing.
pub struct Exec {
    path: CString,
    argv: Pointers,
    envp: Pointers,
}

/// Strings and the null-terminated list of pointers to them; the heap blocks of the strings do not move.
struct Pointers {
    list: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let list = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Pointers { list, _strings: strings }
    }
}

impl Exec {
    /// # Errors
    /// `EINVAL` for a NUL within a string.
    pub fn new(path: &str, argv: &[String], envp: &[String]) -> Result<Self> {
        let c = |s: &str| CString::new(s).map_err(|_| SysError::new("execve", format!("{s:?}"), Errno::EINVAL));
        let all = |strings: &[String]| strings.iter().map(|s| c(s)).collect::<Result<Vec<_>>>().map(Pointers::new);
        Ok(Exec { path: c(path)?, argv: all(argv)?, envp: all(envp)? })
    }

    /// execve(2). Returns only with an error.
    pub fn run(&self) -> SysError {
        // SAFETY: all strings are NUL-terminated, both lists end with a null pointer, all are owned by `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.list.as_ptr(), self.envp.list.as_ptr()) };
        SysError::last("execve", self.path.to_string_lossy())
    }
}

unsafe extern "C" {
    /// environ(7): the environment this process was started with; never changed by us.
    static environ: *const *const libc::c_char;
}

/// execveat(2) of an open file with the arguments and environment of this process. Returns only with an error.
pub fn exec_again(file: impl AsFd) -> SysError {
    let argv = std::env::args_os().map(|a| CString::new(a.into_vec()).unwrap_or_default());
    let argv = Pointers::new(argv.collect());
    let empty: &CStr = c"";
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: `argv` ends with a null pointer; environ is only read, and this process has one thread.
    unsafe { libc::syscall(libc::SYS_execveat, fd, empty.as_ptr(), argv.list.as_ptr(), environ, libc::AT_EMPTY_PATH) };
    SysError::last("execveat", format!("fd {fd}, \"\""))
}
