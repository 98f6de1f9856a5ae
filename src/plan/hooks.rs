//! `hooks`, read.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{self as oci, Spec};
use serde::Serialize;
use serde_json::{Value, json};

/// One hook.
#[derive(Debug, Clone, Serialize)]
pub struct Hook {
    /// `hooks.poststop[0]`
    pub field: String,
    /// The program, by its absolute path on the host (for startContainer, in the container).
    pub path: String,
    /// Its arguments, with its name.
    pub args: Vec<String>,
    /// Its environment; none is the runtime's.
    pub env: Option<Vec<String>>,
    /// Seconds until it is killed.
    pub timeout: Option<u64>,
}

/// All hooks of a container, and what they get.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Hooks {
    /// The state, but for `pid` and `status`.
    pub state: Value,
    /// `run.oci.hooks.stdout`: the file for what they print.
    pub stdout: Option<PathBuf>,
    /// `run.oci.hooks.stderr`
    pub stderr: Option<PathBuf>,
    /// prestart and createRuntime, in this order.
    pub create_runtime: Vec<Hook>,
    /// createContainer
    pub create_container: Vec<Hook>,
    /// startContainer
    pub start_container: Vec<Hook>,
    /// poststart
    pub poststart: Vec<Hook>,
    /// poststop
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Those of config.json.
    #[allow(deprecated)] // prestart: Docker's networks use it still
    pub fn of(spec: &Spec, id: &str, bundle: &std::path::Path) -> Option<Hooks> {
        let hooks = spec.hooks().as_ref()?;
        let mut create_runtime = list("prestart", hooks.prestart());
        create_runtime.extend(list("createRuntime", hooks.create_runtime()));
        let annotations: HashMap<_, _> = spec.annotations().clone().unwrap_or_default();
        let file = |name: &str| annotations.get(name).filter(|p| !p.is_empty()).map(PathBuf::from);
        let (stdout, stderr) = (file("run.oci.hooks.stdout"), file("run.oci.hooks.stderr"));
        let version = spec.version();
        let state = json!({ "ociVersion": version, "id": id, "bundle": bundle, "annotations": annotations });
        Some(Hooks {
            state,
            stdout,
            stderr,
            create_runtime,
            create_container: list("createContainer", hooks.create_container()),
            start_container: list("startContainer", hooks.start_container()),
            poststart: list("poststart", hooks.poststart()),
            poststop: list("poststop", hooks.poststop()),
        })
    }

    /// Whether some need the host's paths in the container's mount namespace, or look for the rootfs in it.
    pub fn look_inside(&self) -> bool {
        !self.create_runtime.is_empty() || !self.create_container.is_empty()
    }
}

fn list(kind: &str, hooks: &Option<Vec<oci::Hook>>) -> Vec<Hook> {
    let one = |(i, hook): (usize, &oci::Hook)| Hook {
        field: format!("hooks.{kind}[{i}]"),
        path: hook.path().to_string_lossy().into_owned(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone(),
        timeout: hook.timeout().and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0),
    };
    hooks.iter().flatten().enumerate().map(one).collect()
}
