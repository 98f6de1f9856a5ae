//! The command line: types only.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::log::{Format, Level};
use crate::plan::Tree;

/// A low-level OCI container runtime: a drop-in for runc
#[derive(Debug, Parser)]
#[command(name = "tare", disable_version_flag = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags before the subcommand
#[derive(Debug, Args)]
pub struct Global {
    /// Directory for the state of containers [default: /run/tare, or $XDG_RUNTIME_DIR/tare]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Append messages to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Form of the messages
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
    /// Least gravity of the messages
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    pub log_level: Level,
    /// As --log-level=debug
    #[arg(long)]
    pub debug: bool,
    /// Let systemd make the cgroups: cgroupsPath is slice:prefix:name
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// How to make cgroups: cgroupfs, systemd, or disabled for none
    #[arg(long, value_name = "MANAGER", default_value = "cgroupfs")]
    pub cgroup_manager: CgroupManager,
    /// Whether to run without privileges: true, false or auto
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_value = "auto", default_missing_value = "true", require_equals = true)]
    pub rootless: Rootless,
    /// Ignored: criu is found in $PATH
    #[arg(long, hide = true)]
    pub criu: Option<PathBuf>,
    /// Print the version
    #[arg(long, short)]
    pub version: bool,
}

/// `--cgroup-manager`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CgroupManager {
    /// By files.
    Cgroupfs,
    /// By systemd.
    Systemd,
    /// None.
    Disabled,
}

/// `--rootless`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Rootless {
    /// Always.
    True,
    /// Never.
    False,
    /// As the privileges are.
    Auto,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a container, whose process waits for start
    Create(Create),
    /// Start a created container
    Start(Id),
    /// Create and start a container
    Run(Run),
    /// Execute a further process in a container
    Exec(Box<Exec>),
    /// Print the state of a container
    State(Id),
    /// List containers
    List(List),
    /// Send a signal to a container's process
    Kill(Kill),
    /// Remove a container
    Delete(Delete),
    /// Stop all processes of a container
    Pause(Id),
    /// Let the processes of a paused container go on
    Resume(Id),
    /// List the processes of a container
    Ps(Ps),
    /// Print what a container uses, and when it runs out of memory
    Events(Events),
    /// Change the limits of a container
    Update(Box<Update>),
    /// Write a config.json to start from
    Spec(Spec),
    /// Print what tare can do, as the OCI features document
    Features,
    /// Print every step that create would take, and take none
    Plan(Plan),
}

#[derive(Debug, Args)]
pub struct Id {
    /// Id of the container
    #[arg(value_name = "ID")]
    pub id: String,
}

/// What `create`, `run` and `plan` share
#[derive(Debug, Args)]
pub struct Bundle {
    /// Directory with config.json and the rootfs
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// File to read instead of config.json
    #[arg(long, short = 'f', value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do not use pivot_root, for a root on a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// How to make the mount namespace: antechamber, clone or open-tree [default: the best that works]
    #[arg(long, value_name = "HOW")]
    pub mount_namespace: Option<Tree>,
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    pub bundle: Bundle,
    /// File to write the process's id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Socket to send the process's pidfd to
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Socket to send the master of a terminal to
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Number of descriptors above stderr to pass on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Id of the container
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub create: Create,
    /// Do not wait for the container's end
    #[arg(long, short)]
    pub detach: bool,
    /// Keep the state after the container's end, until delete
    #[arg(long)]
    pub keep: bool,
    /// Do not become the reaper of the container's orphans
    #[arg(long)]
    pub no_subreaper: bool,
}

/// The process is that of --process; or the container's own with another command and what the flags change
#[derive(Debug, Args)]
pub struct Exec {
    /// File with the process in the form of config.json's
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// Do not wait for its end
    #[arg(long, short)]
    pub detach: bool,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Set a variable; may be given often
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// User
    #[arg(long, short, value_name = "UID[:GID]", allow_hyphen_values = true)]
    pub user: Option<String>,
    /// Supplementary group; may be given often
    #[arg(long, short = 'g', value_name = "GID", value_delimiter = ',')]
    pub additional_gids: Vec<u32>,
    /// Add a capability; may be given often
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Forbid new privileges
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub no_new_privs: Option<bool>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// File to write the process's id to, once it runs
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Socket to send the process's pidfd to
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Socket to send the master of a terminal to
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Number of descriptors above stderr to pass on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Cgroup below the container's
    #[arg(long, value_name = "[CTRL:]PATH")]
    pub cgroup: Vec<String>,
    /// Wait for the container to be resumed if it is paused
    #[arg(long)]
    pub ignore_paused: bool,
    /// Id of the container, and the command
    #[arg(value_name = "ID [COMMAND]", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

impl Command {
    /// The exit status when it fails: who waits for an exec's own one can tell it by 255.
    pub fn failure(&self) -> u8 {
        if matches!(self, Command::Exec(_)) { 255 } else { 1 }
    }
}

#[derive(Debug, Args)]
pub struct List {
    /// table or json
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
    /// Ids only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// Signal all processes of the container
    #[arg(long, short)]
    pub all: bool,
    /// Id of the container, and the signal [default: SIGTERM]
    #[arg(value_name = "ID [SIGNAL]", required = true, num_args = 1..=2, trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Kill it first, if it runs; no error if it is not there
    #[arg(long, short)]
    pub force: bool,
    /// Id of the container
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Ps {
    /// table or json
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
    /// Id of the container, and options of ps(1) for the table [default: -ef]
    #[arg(value_name = "ID [OPTIONS]", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Time between two lines of statistics
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub interval: String,
    /// Print the statistics once, and end
    #[arg(long)]
    pub stats: bool,
    /// Id of the container
    #[arg(value_name = "ID")]
    pub id: String,
}

/// What is not given stays as it is
#[derive(Debug, Args)]
pub struct Update {
    /// File with the new values in the form of linux.resources, or - for standard input; all other flags are ignored
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight for block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "N")]
    pub cpu_period: Option<u64>,
    /// Microseconds of CPU time in a period; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Microseconds of CPU time that may be saved up
    #[arg(long, value_name = "N")]
    pub cpu_burst: Option<u64>,
    /// CPU shares (1024 is ordinary), relative to other containers
    #[arg(long, value_name = "N")]
    pub cpu_share: Option<u64>,
    /// Not on cgroup v2
    #[arg(long, value_name = "N", hide = true)]
    pub cpu_rt_period: Option<u64>,
    /// Not on cgroup v2
    #[arg(long, value_name = "N", hide = true, allow_negative_numbers = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// CPUs that may be used: 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used: 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// 1 for CPU time that nobody else wants only, 0 for an ordinary share
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    pub cpu_idle: Option<i64>,
    /// Memory in bytes, or with a unit (64M); -1 for no limit
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory: Option<String>,
    /// Memory that is kept for the container
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true)]
    pub memory_swap: Option<String>,
    /// Ignored: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", hide = true, allow_negative_numbers = true)]
    pub kernel_memory: Option<String>,
    /// Ignored: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", hide = true, allow_negative_numbers = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Number of processes; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    /// Not supported yet
    #[arg(long, value_name = "SCHEMA", hide = true)]
    pub l3_cache_schema: Option<String>,
    /// Not supported yet
    #[arg(long, value_name = "SCHEMA", hide = true)]
    pub mem_bw_schema: Option<String>,
    /// Id of the container
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Spec {
    /// Directory to write config.json to
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// For a container without privileges
    #[arg(long)]
    pub rootless: bool,
    /// Put a built-in profile in: default, strict or log
    #[arg(long, value_name = "NAME")]
    pub seccomp: Option<String>,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub bundle: Bundle,
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// Id to plan for
    #[arg(value_name = "ID", default_value = "ID")]
    pub id: String,
}

/// Commands that run from a sealed executable.
pub const SEALED: [&str; 4] = ["create", "run", "exec", "restore"];

/// `tare --version` and `tare -v` need no subcommand, and may come after other global flags: Docker puts those of
/// `runtimeArgs` before.
pub fn asks_for_version(args: &[std::ffi::OsString]) -> bool {
    let word = |a: &std::ffi::OsString| a == "--version" || a == "-v";
    args.iter().any(word) && global_alone(args.to_vec()).is_some_and(|global| global.version)
}

/// The global flags of a command line that is wrong otherwise: engines look for the mistake in their log.
pub fn global_alone(args: Vec<std::ffi::OsString>) -> Option<Global> {
    use clap::{CommandFactory, FromArgMatches};
    let lenient = Cli::command().ignore_errors(true).subcommand_required(false).arg_required_else_help(false);
    Global::from_arg_matches(&lenient.try_get_matches_from(args).ok()?).ok()
}

/// Go's flag parser takes one dash for two, and containerd sends `-no-subreaper`: a single-dash word that is the name of
/// a long flag becomes one.
pub fn long_flags(args: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    use clap::CommandFactory;
    let single = |a: &std::ffi::OsString| {
        let text = a.to_str()?;
        let name = text.strip_prefix('-')?.split('=').next()?;
        (name.len() > 1 && !name.starts_with('-') && name.starts_with(|c: char| c.is_ascii_lowercase()))
            .then(|| name.to_owned())
    };
    if !args.iter().any(|a| single(a).is_some()) {
        return args; // nearly always
    }
    let top = Cli::command();
    let known = |name: &str| {
        let all = std::iter::once(&top).chain(top.get_subcommands());
        all.flat_map(clap::Command::get_arguments).any(|a| a.get_long() == Some(name))
    };
    let widen = |a: std::ffi::OsString| match single(&a) {
        Some(name) if known(&name) => format!("-{}", a.to_string_lossy()).into(),
        _ => a,
    };
    args.into_iter().map(widen).collect()
}
