//! The same config.json by tare, runc and crun, by both drivers: what is in the files of the container's cgroup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::cases::{self, Case, JUSTIFIED};
use crate::machine::{DRIVERS, Driver, Runtime, cgroup, runtime, settings, sh, show, wait_until};

type Settings = BTreeMap<String, String>;

/// Creates a container with the resources, reads what its cgroup has, and deletes it. The error if it is refused.
fn outcome(bed: &mut Bed, with: Runtime, driver: Driver, resources: &Value, n: usize) -> Result<Settings, String> {
    // Never the same cgroup twice: not everyone takes away what a failed create has made.
    let id = format!("{with:?}-{n}").to_lowercase();
    bed.config["linux"]["resources"] = resources.clone();
    bed.config["linux"]["cgroupsPath"] = json!(driver.place(&id));
    let args = [driver.flags(), &["create", "--pid-file", "pid", &id]].concat();
    let out = runtime(bed, with, &args);
    let created = out.status.success().then(|| settings(&cgroup(&fs::read_to_string(bed.dir.join("pid")).unwrap())));
    runtime(bed, with, &["delete", "--force", &id]);
    created.ok_or_else(|| String::from_utf8_lossy(&out.stderr).trim().to_owned())
}

/// What differs from a cgroup that nobody has written to, in one line.
fn brief(outcome: &Result<Settings, String>, bare: &Settings) -> String {
    match outcome {
        Err(_) => "refused".into(),
        Ok(found) => {
            let changed = found.iter().filter(|(file, value)| bare.get(*file) != Some(value));
            changed.map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(", ")
        }
    }
}

/// The settings of a cgroup that nobody has written to: as mkdir makes it, or systemd a scope.
fn bare(driver: Driver) -> Settings {
    match driver {
        Driver::Fs => {
            let dir = Path::new("/sys/fs/cgroup/resources/bare");
            fs::create_dir_all(dir).unwrap();
            let bare = settings(dir);
            fs::remove_dir(dir).unwrap();
            bare
        }
        Driver::Systemd => {
            let sleep = "systemd-run -q --scope -u bare -p Delegate=yes sleep 100 >/dev/null 2>&1 &";
            sh(sleep);
            wait_until("the scope is there", || show("bare.scope", "ActiveState") == "active");
            let bare =
                settings(&Path::new("/sys/fs/cgroup").join(show("bare.scope", "ControlGroup").trim_matches('/')));
            sh("systemctl stop bare.scope");
            bare
        }
    }
}

#[test]
fn the_files_are_as_wanted_and_as_those_of_runc_and_crun() {
    let mut bed = Bed::new("table");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let mut compared = 0;
    for driver in DRIVERS {
        outcome(&mut bed, Runtime::Tare, driver, &json!({}), 0).unwrap();
        let bare = bare(driver); // beside it: the controllers are there because of it
        for (n, Case { name, resources, want, want_systemd }) in cases::cases().into_iter().enumerate() {
            let n = n + 1;
            let want = match driver {
                Driver::Fs => want,
                Driver::Systemd => want_systemd.map_or(want, str::to_owned),
            };
            let ours = outcome(&mut bed, Runtime::Tare, driver, &resources, n);
            let found = brief(&ours, &bare);
            match (&ours, want.strip_prefix("refused: ")) {
                (Err(error), Some(words)) if words.split(" | ").any(|words| error.contains(words)) => {}
                (Err(error), _) => wrong.push(format!("{name} by {driver:?}: {error}, wanted {want}")),
                (Ok(_), _) if found == want => {}
                (Ok(_), _) => wrong.push(format!("{name} by {driver:?}: {found}, wanted {want}")),
            }
            for with in [Runtime::Runc, Runtime::Crun] {
                compared += 1;
                let outcome = outcome(&mut bed, with, driver, &resources, n);
                let mut theirs = brief(&outcome, &bare);
                if theirs == found {
                    continue;
                }
                if driver == Driver::Systemd && with == Runtime::Crun && name != "nothing" {
                    // It has lifted systemd's TasksMax, whatever was asked for: that is said once.
                    theirs = theirs.split(", ").filter(|f| *f != "pids.max=max").collect::<Vec<_>>().join(", ");
                    if theirs == found {
                        continue;
                    }
                }
                println!("{driver:?} | {name} | {with:?} | {found} | {theirs}");
                let known = |j: &cases::Justified| {
                    j.case == name && j.with == with && j.theirs == theirs && j.drivers.contains(&driver)
                };
                match JUSTIFIED.iter().position(known) {
                    Some(i) => drop(seen.insert((i, driver))),
                    None => wrong.push(format!(
                        "{name} by {driver:?}: {with:?} has {theirs:?} and we {found:?} {}",
                        outcome.err().unwrap_or_default()
                    )),
                }
            }
        }
    }
    println!("{compared} compared, {} differ for a reason", seen.len());
    let names: BTreeSet<_> = cases::cases().iter().map(|c| c.name).collect();
    for (i, justified) in JUSTIFIED.iter().enumerate().filter(|(_, j)| names.contains(j.case)) {
        for driver in justified.drivers.iter().filter(|d| !seen.contains(&(i, **d))) {
            let cases::Justified { case, with, why, .. } = justified;
            wrong.push(format!("{case}: {with:?} by {driver:?} no longer differs ({why})"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
