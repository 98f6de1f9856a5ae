//! These need root and a cgroup2 mount. They run on a hybrid host as it is, and on cgroup v2 alone in a mount namespace:
//! `unshare -m --propagation private sh -c 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; …'`.

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use super::super::freeze::PATIENCE;
use super::super::limits;
use super::*;

/// A cgroup of the test's own, and a folder; both are gone afterwards.
pub struct Place {
    pub host: Host,
    pub scratch: PathBuf,
    below: PathBuf,
}

impl Place {
    pub fn new(name: &str) -> Place {
        assert!(rustix::process::geteuid().is_root(), "this test needs root (or choose others: --skip root_)");
        let host = Host::find().expect("this test needs cgroup v2");
        let name = format!("tare-test-{}-{name}", std::process::id());
        let scratch = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&scratch).unwrap();
        std::fs::create_dir(host.root.join(&name)).unwrap();
        Place { host, scratch, below: name.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.below.join(name)
    }

    fn whole(&self, name: &str) -> PathBuf {
        self.host.root.join(self.path(name))
    }

    pub fn try_create(&self, name: &str) -> Result<Cgroup> {
        create(&self.host, &self.path(name))
    }

    pub fn create(&self, name: &str) -> Cgroup {
        self.try_create(name).unwrap()
    }

    /// A cgroup as the container makes it in its own: with no controllers enabled for it, so that both may have processes.
    fn nested(&self, name: &str) -> Cgroup {
        std::fs::create_dir(self.whole(name)).unwrap();
        open_existing(&self.whole(name)).unwrap().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(Some(cgroup)) = open_existing(&self.whole("")) {
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
        }
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// A process that does nothing, in the cgroup.
fn sleeper(cgroup: &Cgroup) -> Child {
    let mut child = idle();
    cgroup.attach(child.id() as i32).inspect_err(|_| drop(child.kill())).unwrap();
    child
}

fn idle() -> Child {
    Command::new("sleep").arg("100").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn writes(json: &str) -> Vec<Write> {
    limits::writes(&serde_json::from_str(json).unwrap()).unwrap()
}

#[test]
fn root_create_and_remove() {
    let place = Place::new("create");
    let cgroup = place.create("a/b/c");
    assert!(cgroup.is_fresh());
    assert_eq!(cgroup.path(), place.whole("a/b/c"));
    assert_eq!(std::fs::metadata(cgroup.path()).unwrap().mode() & 0o777, 0o755);
    assert!(!cgroup.populated().unwrap());
    // Every controller of the root is there.
    assert_eq!(read(cgroup.as_fd(), "cgroup.controllers").unwrap().trim(), place.host.controllers);

    // An existing one that is empty is used.
    let again = place.create("a/b/c");
    assert!(!again.is_fresh());
    again.undo().unwrap();
    assert!(cgroup.path().exists(), "who did not make it does not undo it");

    cgroup.remove().unwrap();
    assert!(!cgroup.path().exists());
    assert!(place.whole("a/b").exists(), "remove is for the container's own");
    cgroup.remove().unwrap();
    cgroup.kill_all().unwrap();
    assert!(!cgroup.populated().unwrap());
    assert!(!cgroup.is_frozen().unwrap());
    assert_eq!(cgroup.pids().unwrap(), [0; 0]);
    cgroup.undo().unwrap();
    assert!(!place.whole("a").exists(), "undo takes what was made above");
    assert!(place.whole("").exists());
}

#[test]
fn root_undo_takes_exactly_what_was_made() {
    let place = Place::new("undo");
    std::fs::create_dir(place.whole("a")).unwrap();
    let cgroup = place.create("a/b/c/d");
    std::fs::create_dir(place.whole("a/b/other")).unwrap();
    cgroup.undo().unwrap();
    assert!(!place.whole("a/b/c").exists());
    assert!(place.whole("a/b/other").exists(), "in use by others");
    let cgroup = place.create("a/b/c");
    cgroup.undo().unwrap();
    assert!(place.whole("a/b").exists(), "made by another");
    assert!(!place.whole("a/b/c").exists());
}

#[test]
fn root_in_use_is_refused() {
    let place = Place::new("in-use");
    let cgroup = place.create("c");
    let below = place.create("c/below");
    let mut child = sleeper(&below);
    let error = place.try_create("c").unwrap_err();
    assert_eq!(error.origin, Some(Origin::new(CGROUPS_PATH, cgroup.path().display().to_string())));
    assert!(error.doing.contains("container's cgroup is not empty: 1 process(es) found"), "{error}");
    assert_eq!(cgroup.pids().unwrap(), [child.id() as i32]);
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    assert!(!cgroup.wait_for(Instant::now() + PATIENCE, |e| !e.populated).unwrap().populated);

    cgroup.freeze().unwrap();
    assert!(place.try_create("c").unwrap_err().doing.contains("unexpectedly frozen"));
    let error = place.try_create("c/below").unwrap_err();
    assert!(error.doing.contains("unexpectedly frozen"), "from above: {error}");
    cgroup.thaw().unwrap();
    place.create("c");
}

#[test]
fn root_freeze_and_kill() {
    let place = Place::new("freeze");
    let cgroup = place.create("c");
    let below = place.nested("c/below");
    let mut children = [sleeper(&cgroup), sleeper(&below)];
    assert!(cgroup.populated().unwrap());
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap() && cgroup.events().unwrap().frozen);
    assert!(!below.is_frozen().unwrap() && below.events().unwrap().frozen);
    // Frozen from above: to thaw it here does not help, and says so at once where one does not wait.
    assert!(below.wait_for(Instant::now() + Duration::from_millis(20), |e| !e.frozen).unwrap().frozen);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap() && !below.events().unwrap().frozen);
    cgroup.freeze().unwrap();
    // A frozen one can be killed, and removed before anybody has waited for the zombies.
    cgroup.kill_all().unwrap();
    cgroup.remove().unwrap();
    assert!(!cgroup.path().exists());
    for child in &mut children {
        assert!(!child.wait().unwrap().success());
    }
}

#[test]
fn root_remove_waits_with_an_end() {
    let place = Place::new("patience");
    let cgroup = place.create("c");
    let mut child = sleeper(&cgroup);
    let start = Instant::now();
    let error = cgroup.remove_by(start + Duration::from_millis(50)).unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(error.to_string().contains(&format!("still there: {}", child.id())), "{error}");
    // It ends while we wait.
    std::thread::scope(|scope| {
        let remove = scope.spawn(|| cgroup.remove());
        child.kill().unwrap();
        child.wait().unwrap();
        remove.join().unwrap().unwrap();
    });
    assert!(!cgroup.path().exists());
}

#[test]
fn root_a_wait_ends_when_somebody_else_removes_the_cgroup() {
    let place = Place::new("vanishes");
    let cgroup = place.create("c");
    let (neighbour, start) = (place.create("neighbour"), Instant::now());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cgroup.wait_for(start + PATIENCE, |_| false));
        neighbour.remove().unwrap();
        assert!(!waiting.is_finished(), "the removal of another cgroup is none of this one");
        std::fs::remove_dir(cgroup.path()).unwrap();
        assert!(!waiting.join().unwrap().unwrap().populated);
    });
    assert!(start.elapsed() < PATIENCE / 2, "it waited for {:?}", start.elapsed());
}

#[test]
fn root_remove_deep_and_wide() {
    let place = Place::new("deep");
    let cgroup = place.create("c");
    let mut deep = place.whole("c");
    for _ in 0..60 {
        deep.push("d");
    }
    std::fs::create_dir_all(&deep).unwrap();
    for i in 0..40 {
        std::fs::create_dir_all(place.whole(&format!("c/w{i}/x y"))).unwrap();
    }
    let mut child = idle();
    std::fs::write(deep.join("cgroup.procs"), child.id().to_string()).unwrap();
    assert_eq!(cgroup.pids().unwrap(), [child.id() as i32]);
    cgroup.kill_all().unwrap();
    cgroup.remove().unwrap();
    assert!(!cgroup.path().exists());
    child.wait().unwrap();
}

#[test]
fn root_remove_after_a_fork_storm() {
    let place = Place::new("storm");
    let cgroup = place.create("c");
    let procs = cgroup.path().join("cgroup.procs");
    let storm =
        "echo $$ > \"$1\"; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); sleep 100 & [ $i -lt 50 ] || wait $!; done";
    let mut child = Command::new("sh").args(["-c", storm, "sh"]).arg(procs).spawn().unwrap();
    // Not before it has begun: its first process is enough.
    cgroup.wait_for(Instant::now() + PATIENCE, |e| e.populated).unwrap();
    cgroup.kill_all().unwrap();
    cgroup.remove().unwrap();
    child.wait().unwrap();
}

#[test]
fn root_signal_all() {
    let place = Place::new("signal");
    let cgroup = place.create("c");
    let below = place.nested("c/below");
    let mut children = [sleeper(&cgroup), sleeper(&below), sleeper(&below)];
    let mut count = 0;
    cgroup
        .signal_all(|pidfd| {
            count += 1;
            pidfd_send_signal(pidfd, Signal::TERM).call("pidfd_send_signal", || "TERM".into())
        })
        .unwrap();
    assert_eq!(count, 3);
    for child in &mut children {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
    cgroup.signal_all(|_| panic!("nobody is left")).unwrap();
}

#[test]
fn root_limits() {
    let place = Place::new("limits");
    let cgroup = place.create("c");
    let hugetlb = place.host.controllers.split(' ').any(|c| c == "hugetlb");
    assert!(hugetlb, "this test needs the hugetlb controller on cgroup v2");
    cgroup.apply(&writes(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#)).unwrap();
    assert_eq!(read(cgroup.as_fd(), "hugetlb.2MB.max").unwrap(), "4194304\n");
    assert_eq!(read(cgroup.as_fd(), "hugetlb.2MB.rsvd.max").unwrap(), "4194304\n");
    cgroup.apply(&writes(r#"{"unified": {"hugetlb.2MB.max": "max", "cgroup.max.depth": "3"}}"#)).unwrap();
    assert_eq!(read(cgroup.as_fd(), "hugetlb.2MB.max").unwrap(), "max\n");
    assert_eq!(read(cgroup.as_fd(), "cgroup.max.depth").unwrap(), "3\n");

    for (json, start) in [
        (
            r#"{"unified": {"cgroup.nothing": "1"}}"#,
            "linux.resources.unified[cgroup.nothing]: set cgroup.nothing: the kernel has no such file",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}"#,
            "linux.resources.hugepageLimits[0]: set hugetlb.3MB.max: the kernel has no such file",
        ),
        (
            r#"{"unified": {"cgroup.max.depth": "x"}}"#,
            "linux.resources.unified[cgroup.max.depth]: set cgroup.max.depth to \"x\": \
             write(\"cgroup.max.depth\", \"x\"): EINVAL\n  hint: the kernel refuses this value",
        ),
    ] {
        let error = cgroup.apply(&writes(json)).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn root_missing_controller() {
    let place = Place::new("missing");
    let cgroup = place.create("c");
    if place.host.controllers.split(' ').any(|c| c == "memory") {
        return; // A host with everything on cgroup v2.
    }
    let error = cgroup.apply(&writes(r#"{"memory": {"limit": 1000000, "swap": 1000000}}"#)).unwrap_err().to_string();
    let start = "linux.resources.memory.limit: set memory.max: cgroup controller memory is not available\n  hint: ";
    assert!(error.starts_with(start), "{error}");
    let error = cgroup.apply(&writes(r#"{"blockIO": {"weight": 100}}"#)).unwrap_err().to_string();
    assert!(error.starts_with("linux.resources.blockIO.weight: set io.bfq.weight: cgroup controller io"), "{error}");
    // What is asked for is so without the controller.
    cgroup.apply(&writes(r#"{"memory": {"swap": -1}, "cpu": {"idle": 0, "burst": 0}}"#)).unwrap();
}

/// The order in which the kernel takes a pair of values that it compares with each other.
#[test]
fn root_later_is_after_the_next() {
    let place = Place::new("later");
    let cgroup = place.create("c");
    let write = |file: &'static str, value: &str, otherwise| Write {
        file: file.into(),
        value: value.into(),
        controller: "cgroup".into(),
        origin: Origin::field("x"),
        otherwise,
        unless_used: None,
    };
    let refused = write("cgroup.max.depth", "x", Otherwise::Later);
    let error = cgroup.apply(&[refused.clone(), write("cgroup.max.descendants", "5", Otherwise::Fail)]).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL), "tried again, and told");
    assert_eq!(read(cgroup.as_fd(), "cgroup.max.descendants").unwrap(), "5\n", "after the next one");
    assert!(cgroup.apply(&[refused]).is_err(), "alone as well");
    let other = Otherwise::Use { file: "cgroup.max.depth", value: "7".into() };
    cgroup.apply(&[write("cgroup.nothing", "1", other), write("cgroup.nothing", "1", Otherwise::Skip)]).unwrap();
    assert_eq!(read(cgroup.as_fd(), "cgroup.max.depth").unwrap(), "7\n");
}

#[test]
fn root_parents_vanish() {
    let place = Place::new("vanish");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = std::fs::remove_dir(place.whole("a/b"));
                let _ = std::fs::remove_dir(place.whole("a"));
            }
        });
        for i in 0..100 {
            let cgroup = place.try_create(&format!("a/b/c{i}"));
            let ok = cgroup.and_then(|cgroup| cgroup.undo());
            if ok.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            ok.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn root_open_existing() {
    let place = Place::new("open");
    let cgroup = place.create("c");
    let again = open_existing(cgroup.path()).unwrap().unwrap();
    assert_eq!(again.path(), cgroup.path());
    assert!(!again.is_fresh());
    again.undo().unwrap();
    assert!(cgroup.path().exists());
    assert!(open_existing(&place.whole("none")).unwrap().is_none());
    assert!(open_existing(&place.whole("none/below")).unwrap().is_none());
    for bad in ["/sys/fs/cgroup", "/tmp/x", "/sys/fs/cgroup/../x", "/sys/fs/cgroup/unified", "relative"] {
        let error = open_existing(Path::new(bad)).unwrap_err();
        assert!(error.origin.is_some(), "{error}");
    }
}

#[test]
fn root_entering_fails_with_words() {
    let place = Place::new("enter");
    let cgroup = place.create("c");
    cgroup.remove().unwrap();
    let error = cgroup.attach(std::process::id() as i32).unwrap_err().to_string();
    assert!(error.contains("container not running"), "{error}");
    assert!(!error.to_lowercase().contains("no such file"), "{error}");

    let cgroup = place.create("c");
    assert_eq!(cgroup.attach(i32::MAX).unwrap_err().errno(), Some(Errno::ESRCH));
    if !place.host.controllers.is_empty() {
        let first = place.host.controllers.split(' ').next().unwrap();
        place.create("c/below");
        assert_eq!(read(cgroup.as_fd(), "cgroup.subtree_control").unwrap().trim(), place.host.controllers, "{first}");
        let mut child = idle();
        let error = cgroup.attach(child.id() as i32).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(error.errno(), Some(Errno::EBUSY));
    }
}

#[test]
fn root_delegate() {
    let place = Place::new("delegate");
    let cgroup = place.create("c");
    cgroup.delegate(12345).unwrap();
    let uid = |name: &str| std::fs::metadata(cgroup.path().join(name)).unwrap().uid();
    assert_eq!(uid(""), 12345);
    assert_eq!(uid("cgroup.procs"), 12345);
    assert_eq!(uid("cgroup.subtree_control"), 12345);
    assert_eq!(uid("cgroup.freeze"), 0);
}

#[test]
fn missing_controllers_are_explained() {
    let v1 = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t12\t1\nblkio\t7\t1\t1\ncpu\t0\t1\t0\npids\t0\t1\t1\n";
    let parent = Path::new("/sys/fs/cgroup/docker");
    for (controller, root_has, words) in [
        ("memory", true, "write +memory to cgroup.subtree_control in /sys/fs/cgroup/docker"),
        (
            "memory",
            false,
            "memory is bound to cgroup v1 on this host: boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=memory",
        ),
        ("io", false, "blkio is bound to cgroup v1"),
        ("cpu", false, "cgroup_disable=cpu"),
        ("pids", false, "the kernel does not have it"),
        ("rdma", false, "the kernel does not have it"),
    ] {
        let hint = missing_controller(controller, root_has, parent, v1);
        assert!(hint.starts_with(words) || hint.ends_with(words), "{hint}");
    }
}

#[test]
fn paths_below_the_mount() {
    assert_eq!(names(Path::new("a/b")).unwrap().len(), 2);
    for bad in ["", "/", "/a", "..", "a/../b"] {
        assert!(names(Path::new(bad)).is_err(), "{bad}");
    }
}
