//! Who is not root may not open mounts, which all else rests on. In a user namespace of the runtime's own he may: one in which
//! every id is the same as outside, so that config.json means the same. Then everything goes its usual way, and the
//! container's user namespace is one below. (Who comes from Podman is in one already.)

use caps::Capability;
use oci_spec::runtime::Spec;

use super::sync::Report;
use crate::error::{Doing, Error, Result};
use crate::faults;
use crate::host;
use crate::plan::{Maps, Namespaces};
use crate::seal;
use crate::sys::{clone, process, socket};

/// For who has CAP_SYS_ADMIN where he is, nothing. Else this process goes on in namespaces of its own, and the program begins
/// anew: only what was executed in there belongs to it (mm->user_ns), and can be given ids from there.
///
/// # Errors
/// The container has no user namespace of its own; user namespaces are forbidden; the ids are not the caller's.
pub fn enter(spec: &Spec) -> Result<()> {
    if host::has(Capability::CAP_SYS_ADMIN)? {
        return Ok(());
    }
    let Some(maps) = Namespaces::of(spec, false).maps else {
        return Err(Error::new("without CAP_SYS_ADMIN the container needs a new user namespace")
            .field("linux.namespaces")
            .hint("tare spec --rootless writes a config.json to start from"));
    };
    let identity = |lines: &[[u32; 3]], own: u32| {
        let mut lines: Vec<[u32; 3]> = lines.iter().map(|[_, outside, count]| [*outside, *outside, *count]).collect();
        lines.sort_unstable();
        lines.dedup();
        if !lines.iter().any(|[first, _, count]| own >= *first && own - first < *count) {
            lines.push([own, own, 1]);
        }
        lines
    };
    let maps = Maps { uids: identity(&maps.uids, host::euid()), gids: identity(&maps.gids, host::egid()) };
    let hint = "an ordinary user may be forbidden to make user namespaces: sysctl kernel.unprivileged_userns_clone, \
                user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns";
    // Its files in /proc are the caller's again, who must write there; the new program is not dumpable either.
    host::open_to_maps(true)?;
    let (ours, theirs) = socket::pair().doing("make a socket pair")?;
    let pid = std::process::id().cast_signed();
    // newuidmap and newgidmap must be run by who is still outside.
    let Some(mapper) = clone::clone3(0, None).doing("make the process that maps ids")? else {
        drop(ours);
        let mapped = match socket::receive(&theirs, 1) {
            Ok(Some(_)) => host::write_id_maps(pid, &maps),
            _ => process::exit_now(1),
        };
        let words = mapped.err().map_or_else(|| b"+".to_vec(), |e| Report::new(&e).to_bytes());
        let _ = socket::send(&theirs, &words);
        process::exit_now(0)
    };
    drop(theirs);
    let unshare = || {
        let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
        clone::unshare(namespaces).doing("make a user namespace for the runtime").map_err(|e| e.hint(hint))
    };
    let ask = || socket::send(&ours, b"m").and_then(|()| socket::receive(&ours, 64 * 1024));
    let told = faults::at("parent", "before-apart")
        .and_then(|()| unshare())
        .and_then(|()| faults::at("parent", "apart"))
        .and_then(|()| ask().doing("wait until the ids are mapped"));
    drop(ours);
    clone::wait(&mapper.pidfd).doing("wait for the process that maps ids")?;
    match told? {
        Some((word, _)) if word == b"+" => {}
        Some((report, _)) => {
            let unexpected = || Error::new("the process that maps ids said something unexpected");
            return Err(Report::from_bytes(&report).map_or_else(unexpected, Report::error));
        }
        None => return Err(Error::new("the process that maps ids was killed")),
    }
    faults::at("parent", "mapped")?;
    // Who is not root loses at execve what is not ambient.
    let all = process::permitted().doing("read the runtime's capabilities")?;
    process::set_capabilities(all, all, all).doing("keep the capabilities over execve")?;
    process::set_ambient(all).doing("keep the capabilities over execve")?;
    let file = seal::executable().doing("begin anew in the user namespace")?;
    Err(Error::sys("begin anew in the user namespace", process::exec_again(file)))
}
