//! Terminals: that of a container handed over by `--console-socket`, and served by `run` and `exec` in the foreground, under a
//! terminal of the test's own or between pipes.

#![allow(clippy::disallowed_methods)] // they are for the shipped code

mod bed;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bed::{Bed, cgroup_of, message, trees};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::json;

/// Whatever is waited for comes within this time.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes through a terminal each way; TARE_TEST_BYTES says otherwise.
const BYTES: usize = 200_000_000;

/// A bundle with a terminal.
fn bed(name: &str) -> Bed {
    let mut bed = Bed::new(&format!("terminal-{name}"));
    for applet in ["tty", "stty", "md5sum", "kill", "dd"] {
        std::os::unix::fs::symlink("busybox", bed.dir.join("rootfs/bin").join(applet)).unwrap();
    }
    bed.config["process"]["terminal"] = json!(true);
    bed
}

/// What has come out of a terminal, gathered by a thread so that nobody has to wait.
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Reads until the other side has hung up.
    fn from(mut reader: impl Read + Send + 'static) -> Said {
        let said = Arc::new(Mutex::new(Vec::new()));
        let to = said.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                to.lock().unwrap().extend(&buffer[..n]);
            }
        });
        Said(said)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Waits for the words, and returns everything until then.
    #[track_caller]
    fn wait(&self, words: &str) -> String {
        let begin = Instant::now();
        while !self.text().contains(words) {
            assert!(begin.elapsed() < LIMIT, "{words:?} did not come: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.text()
    }

    /// Forgets what has been said.
    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A terminal of the test's own, as a person has one: tare is started on it, in a session of its own.
struct Outer {
    master: File,
    slave: OwnedFd,
    said: Said,
    before: String,
}

/// All settings, to compare.
fn settings(of: &Termios) -> String {
    format!("{of:?}")
}

impl Outer {
    fn new() -> Outer {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let before = settings(&tcgetattr(&slave).unwrap());
        let outer =
            Outer { said: Said::from(File::from(master.try_clone().unwrap())), master: master.into(), slave, before };
        outer.resize(30, 100);
        outer
    }

    /// Starts tare on the terminal, which controls its session.
    fn start(&self, bed: &mut Bed, args: &[&str]) -> Child {
        bed.through = ["setsid", "--ctty"].map(str::to_owned).into();
        let stdio = || Stdio::from(self.slave.try_clone().unwrap());
        let child = bed.command(args).stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        bed.through.clear();
        child
    }

    fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.slave, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    fn type_in(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave)
            .unwrap()
            .local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn is_as_before(&self) -> bool {
        settings(&tcgetattr(&self.slave).unwrap()) == self.before
    }
}

/// Waits for the end, which comes; the exit status.
#[track_caller]
fn end(child: &mut Child) -> i32 {
    let begin = Instant::now();
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status.code().unwrap_or_else(|| panic!("{status:?}")),
            None if begin.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(2)),
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it does not end");
            }
        }
    }
}

#[track_caller]
fn nothing_is_left(bed: &Bed) {
    assert!(!bed.dir.join("state").join(bed.id()).exists(), "the state is left");
    assert!(!cgroup_of(&bed.id()).exists(), "the cgroup is left");
}

/// A socket for consoles, in a directory with a path that is too long for sun_path.
struct Receiver {
    listener: UnixListener,
    path: PathBuf,
}

impl Receiver {
    fn new(bed: &Bed, name: &str) -> Receiver {
        let dir = bed.dir.join("long".repeat(30));
        fs::create_dir_all(&dir).unwrap();
        let open = File::open(&dir).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", open.as_raw_fd())).unwrap();
        let path = dir.join(name);
        assert!(path.as_os_str().len() > 107);
        Receiver { listener, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The one message: the name of the terminal, and its master. There is nothing after it.
    #[track_caller]
    fn receive(&self) -> (String, File) {
        self.listener.set_nonblocking(true).unwrap();
        let (mut stream, _) = self.listener.accept().expect("nobody has connected");
        let (name, mut fds) = message(&stream);
        assert_eq!(fds.len(), 1, "{fds:?}");
        stream.set_nonblocking(false).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "more than one message");
        (name, fds.remove(0).into())
    }
}

/// What a process can say of its terminal.
const FACTS: &str = r#"
same() { test $(stat -L -c %d:%i:%t:%T $1) = $(stat -L -c %d:%i:%t:%T $2) && echo -n "same " || echo -n "$1 is not $2 "; }
for fd in 0 1 2; do same /proc/$$/fd/$fd $(tty); done
echo $(tty) $(stat -L -c '%F %a %u %g' /proc/$$/fd/0), $(stty size)
test $(stat -L -c %d /proc/$$/fd/0) = $(stat -c %d /dev/pts) && echo of its own devpts
set -- $(cat /proc/self/stat); test $7 -ne 0 && echo controlled; test $6 = $$ && echo leads its session
echo through /dev/tty > /dev/tty
"#;

#[test]
fn it_is_of_the_containers_own_devpts() {
    let mut bed = bed("facts");
    bed.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    bed.config["process"]["consoleSize"] = json!({"height": 33, "width": 111});
    // /dev/console belongs to init alone.
    bed.shell(&format!("{FACTS} same /dev/console /proc/self/fd/0; echo; echo END; exec sleep 1000"));
    let facts = |tty: &str, size: &str| {
        format!(
            "same same same {tty} character special file 620 1000 5, {size}\r\nof its own devpts\r\ncontrolled\r\n\
             leads its session\r\nthrough /dev/tty\r\n"
        )
    };
    for (i, tree) in trees().into_iter().enumerate() {
        for (j, args) in [&["create"][..], &["run", "--detach"]].into_iter().enumerate() {
            let receiver = Receiver::new(&bed, &format!("{i}{j}"));
            let tree = format!("--mount-namespace={tree}");
            let out = bed.tare(&[args, &[&tree, "--console-socket", receiver.path(), &bed.id()]].concat());
            assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
            // Only now does anybody accept.
            let (name, master) = receiver.receive();
            assert_eq!(name, "/dev/pts/0");
            let said = Said::from(master.try_clone().unwrap());
            if args == ["create"] {
                assert!(bed.tare(&["start", &bed.id()]).status.success());
            }
            assert_eq!(
                said.wait("END\r\n"),
                format!("{}same \r\nEND\r\n", facts("/dev/pts/0", "33 111")),
                "{tree} {args:?}"
            );

            let receiver = Receiver::new(&bed, &format!("{i}{j}exec"));
            let script = format!("{FACTS} same /dev/console /proc/self/fd/0; echo; echo END; exec sleep 1000");
            let out = bed.tare(&[
                "exec",
                "--tty",
                "--detach",
                "--console-socket",
                receiver.path(),
                "--user",
                "1000:1000",
                &bed.id(),
                "sh",
                "-c",
                &script,
            ]);
            assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
            let (name, second) = receiver.receive();
            assert_eq!(name, "/dev/pts/1");
            let said = Said::from(second.try_clone().unwrap());
            let other = "/dev/console is not /proc/self/fd/0 ";
            assert_eq!(
                said.wait("END\r\n"),
                format!("{}{other}\r\nEND\r\n", facts("/dev/pts/1", "33 111")),
                "exec, {tree}"
            );
            bed.delete();
        }
    }
}

#[test]
fn a_terminal_is_asked_for_as_it_can_be_had() {
    let mut bed = bed("asked");
    let receiver = Receiver::new(&bed, "s");
    let missing = bed.dir.join("no/such/socket");
    let file = bed.dir.join("config.json");
    let (socket, missing, file) = (receiver.path(), missing.to_str().unwrap(), file.to_str().unwrap());
    let without = "cannot allocate tty if tare will detach without setting console socket";
    let too_many = "cannot use console socket if tare will not detach or allocate tty";
    let table: [(bool, &[&str], &str); 10] = [
        (true, &["create"], without),
        (true, &["run", "--detach"], without),
        (true, &["run", "--console-socket", socket], too_many),
        (false, &["create", "--console-socket", socket], too_many),
        (false, &["run", "--console-socket", socket], too_many),
        (false, &["run", "--detach", "--console-socket", socket], too_many),
        (true, &["create", "--console-socket", missing], "--console-socket: connect"),
        (true, &["run", "--detach", "--console-socket", missing], "--console-socket: connect"),
        (true, &["create", "--console-socket", file], "--console-socket: connect"),
        (true, &["create", "--console-socket", "/"], "--console-socket: connect"),
    ];
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    for (terminal, args, words) in table {
        bed.config["process"]["terminal"] = json!(terminal);
        let out = bed.tare(&[args, &["--pid-file", "pid", &bed.id()]].concat());
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(1) && said.contains(words), "{terminal} {args:?}: {out:?}");
        assert!(!bed.dir.join("pid").exists());
        nothing_is_left(&bed);
    }
    bed.config["process"]["terminal"] = json!(false);
    bed.detached(&[]);
    let table: [(&[&str], &str); 4] = [
        (&["--tty", "--detach"], without),
        (&["--tty", "--console-socket", socket], too_many),
        (&["--detach", "--console-socket", socket], too_many),
        (&["--tty", "--detach", "--console-socket", missing], "--console-socket: connect"),
    ];
    for (args, words) in table {
        let out = bed.tare(&[&["exec"], args, &["--pid-file", "exec-pid", &bed.id(), "true"]].concat());
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(255) && said.contains(words), "{args:?}: {out:?}");
        assert!(!bed.dir.join("exec-pid").exists());
    }
}

#[test]
fn one_who_takes_nothing_and_one_who_is_gone() {
    let mut bed = bed("gone");
    bed.config["process"]["args"] = json!(["sleep", "1000"]);
    // Nobody accepts, ever.
    let receiver = Receiver::new(&bed, "never");
    let out = bed.tare(&["create", "--console-socket", receiver.path(), &bed.id()]);
    assert!(out.status.success(), "{out:?}");
    bed.delete();
    // Whoever had listened has ended: the master is closed, too, and the process gets SIGHUP.
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    let out = bed.tare(&["run", "--detach", "--console-socket", receiver.path(), &bed.id()]);
    assert!(out.status.success(), "{out:?}");
    drop(receiver);
    let begin = Instant::now();
    while bed.status() != "stopped" {
        assert!(begin.elapsed() < LIMIT, "no SIGHUP");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Both ways to have a process with a terminal in the foreground, and the arguments for a script.
fn foreground(bed: &mut Bed, exec: bool, script: &str) -> Vec<String> {
    if exec {
        bed.config["process"]["terminal"] = json!(false);
        bed.config["process"]["args"] = json!(["sleep", "1000"]);
        if bed.status() != "running" {
            bed.detached(&[]);
        }
        ["exec", "--tty", &bed.id(), "sh", "-c", script].map(str::to_owned).into()
    } else {
        bed.shell(script);
        ["run".to_owned(), bed.id()].into()
    }
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn the_callers_terminal_is_raw_meanwhile_and_restored_after() {
    let mut bed = bed("restored");
    let script = "trap 'echo got TERM; exit 44' TERM; echo ready; stty -a; while read -r line; do eval \"$line\"; done";
    for exec in [false, true] {
        let outer = Outer::new();
        let args = foreground(&mut bed, exec, script);
        for (way, status) in [("exit", 43), ("kill", 137), ("term", 44), ("hangup", 0)] {
            outer.said.clear();
            let mut child = outer.start(&mut bed, &words(&args));
            outer.said.wait("ready\r\n");
            assert!(outer.is_raw(), "{way}");
            match way {
                "exit" => outer.type_in("exit 43\r"),
                "kill" if exec => outer.type_in("kill -KILL $$\r"),
                // Nobody inside can kill the first process of a pid namespace.
                "kill" => assert!(bed.tare(&["kill", &bed.id(), "KILL"]).status.success()),
                "term" => kill_process(Pid::from_child(&child), Signal::TERM).unwrap(),
                // The end of the input: with a terminal that is a character.
                _ => outer.type_in("\x04"),
            }
            assert_eq!(end(&mut child), status, "exec {exec}, {way}: {:?}", outer.said.text());
            assert!(outer.is_as_before(), "exec {exec}, {way}");
            if !exec {
                nothing_is_left(&bed);
            }
        }
        // What fails at once leaves it as it was, too.
        let out = if exec { vec!["exec", "-t"] } else { vec!["run"] };
        bed.config["process"]["args"] = json!(["/no/such"]);
        let id = bed.id();
        let mut child = outer.start(&mut bed, &[&out[..], &[&id], if exec { &["/no/such"] } else { &[] }].concat());
        assert_eq!(end(&mut child), if exec { 255 } else { 1 });
        assert!(outer.is_as_before());
        // A message of ours is readable: lines begin at their beginning.
        assert!(outer.said.wait("no such file").ends_with("\r\n"), "{:?}", outer.said.text());
    }
}

#[test]
fn the_size_follows_that_of_the_callers_terminal() {
    let mut bed = bed("size");
    for exec in [false, true] {
        let outer = Outer::new();
        let script = "trap 'stty size' WINCH; stty size; for i in $(busybox seq 200); do sleep 0.1; done";
        let args = foreground(&mut bed, exec, script);
        let mut child = outer.start(&mut bed, &words(&args));
        outer.said.wait("30 100\r\n");
        for (rows, columns) in [(40, 120), (7, 20), (1000, 2000)] {
            outer.resize(rows, columns);
            outer.said.wait(&format!("{rows} {columns}\r\n"));
        }
        kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        bed.delete();
    }
}

#[test]
fn what_is_typed_reaches_the_job_in_the_foreground() {
    let mut bed = bed("jobs");
    for exec in [false, true] {
        let outer = Outer::new();
        let args = foreground(&mut bed, exec, "PS1='> ' exec sh -i");
        let mut child = outer.start(&mut bed, &words(&args));
        let say = |line: &str, answer: &str| {
            outer.said.clear();
            outer.type_in(line);
            outer.said.wait(answer)
        };
        // The shell may not have put the job into the foreground yet, so it is pressed again.
        let press = |key: &str, answer: &str| {
            outer.said.clear();
            let begin = Instant::now();
            while !outer.said.text().contains(answer) {
                assert!(begin.elapsed() < LIMIT, "{answer:?} did not come: {:?}", outer.said.text());
                outer.type_in(key);
                std::thread::sleep(Duration::from_millis(300));
            }
        };
        outer.said.wait("> ");
        // What is typed is echoed by the container's terminal, once: the answers are no part of it.
        let first = say("echo $((40+2))\r", "42\r\n");
        assert_eq!(first.matches("echo").count(), 1, "{first:?}");
        say("echo sleeping; sleep 1000; echo status $?\r", "sleeping\r\n");
        press("\x03", "> ");
        say("sleep 1000; echo after $?\r", "\r\n");
        press("\x1a", "Stopped");
        say("jobs\r", "Stopped                    sleep 1000");
        say("fg; echo done $?\r", "\r\nsleep 1000\r\n");
        press("\x03", "> ");
        say("exit 9\r", "exit 9");
        assert_eq!(end(&mut child), 9, "{:?}", outer.said.text());
        assert!(outer.is_as_before());
    }
}

/// tare in the foreground between pipes.
fn piped(bed: &Bed, args: &[&str]) -> Child {
    bed.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn between_pipes_lines_are_plain() {
    let mut bed = bed("pipes");
    for exec in [false, true] {
        let args = foreground(&mut bed, exec, "tty; echo out; echo err >&2; read x; echo got $x");
        let mut child = piped(&bed, &words(&args));
        child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        let tty = "/dev/pts/0";
        // The echo comes whenever the terminal gets the line.
        assert_eq!(said.replacen("typed\n", "", 1), format!("{tty}\nout\nerr\ngot typed\n"));
    }
}

fn bytes() -> usize {
    std::env::var("TARE_TEST_BYTES").map_or(BYTES, |n| n.parse().unwrap())
}

/// A file of 4 MB of noise in the rootfs, as /noise, and its bytes.
fn noise(bed: &Bed) -> Vec<u8> {
    let path = bed.dir.join("rootfs/noise");
    let mut noise = Vec::new();
    File::open("/dev/urandom").unwrap().take(4_000_000).read_to_end(&mut noise).unwrap();
    fs::write(path, &noise).unwrap();
    noise
}

#[test]
fn not_a_byte_is_lost_on_the_way_out() {
    let mut bed = bed("bytes-out");
    let noise = noise(&bed);
    let times = bytes() / noise.len();
    bed.shell(&format!("stty raw; for i in $(busybox seq {times}); do cat /noise; done"));
    let mut child = piped(&bed, &["run", &bed.id()]);
    let mut out = child.stdout.take().unwrap();
    let mut buffer = vec![0; 100_000];
    let mut total = 0;
    let mut reads = 0;
    loop {
        let n = out.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        let mut at = total % noise.len();
        for chunk in buffer[..n].chunks(1000) {
            for piece in [&chunk[..chunk.len().min(noise.len() - at)], &chunk[chunk.len().min(noise.len() - at)..]] {
                assert!(piece == &noise[at..at + piece.len()], "at byte {total}");
                at = (at + piece.len()) % noise.len();
            }
        }
        total += n;
        reads += 1;
        if reads % 200 == 0 {
            std::thread::sleep(Duration::from_millis(10)); // a slow reader
        }
    }
    assert_eq!(total, times * noise.len());
    assert_eq!(end(&mut child), 0);
}

#[test]
fn not_a_byte_is_lost_on_the_way_in() {
    let mut bed = bed("bytes-in");
    let noise = noise(&bed);
    let times = bytes() / noise.len();
    let total = times * noise.len();
    // It starts to read late, and stops once more on its way.
    bed.shell(&format!(
        "stty raw -echo; echo ready; sleep 1; (dd bs=1000 count=5000 iflag=fullblock 2>/dev/null; \
         sleep 1; head -c {}) | md5sum",
        total - 5_000_000
    ));
    let mut child = piped(&bed, &["run", &bed.id()]);
    let said = Said::from(child.stdout.take().unwrap());
    said.wait("ready\n");
    let mut input = child.stdin.take().unwrap();
    for _ in 0..times {
        input.write_all(&noise).unwrap();
    }
    assert_eq!(end_within(&mut child, Duration::from_secs(120)), 0);
    let sum = format!("for i in $(busybox seq {times}); do cat rootfs/noise; done | md5sum");
    assert_eq!(said.wait("  -"), format!("ready\n{}", bed.on_host(&sum)));
}

#[track_caller]
fn end_within(child: &mut Child, limit: Duration) -> i32 {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < limit, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    end(child)
}

#[test]
fn what_was_printed_just_before_the_end_arrives() {
    let mut bed = bed("last-words");
    fs::write(bed.dir.join("rootfs/words"), "0123456789\n".repeat(1500)).unwrap();
    for exec in [false, true] {
        let args = foreground(&mut bed, exec, "cat /words; exit 6");
        for i in 0..if exec { 50 } else { 100 } {
            let out = piped(&bed, &words(&args)).wait_with_output().unwrap();
            assert_eq!((out.stdout.len(), out.status.code()), (16500, Some(6)), "exec {exec}, {i}");
        }
    }
}

#[test]
fn nobody_who_looks_is_no_reason_to_hang() {
    let mut bed = bed("unseen");
    bed.shell("echo first; head -c 5000000 /dev/zero; exit 7");
    let mut child = piped(&bed, &["run", &bed.id()]);
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 6]).unwrap();
    drop(out);
    assert_eq!(end(&mut child), 7);
    // Nor is an end that others do not share: what they print goes on for ever.
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    bed.shell("trap '' HUP; yes & exit 8");
    let mut child = piped(&bed, &["run", &bed.id()]);
    let _said = Said::from(child.stdout.take().unwrap());
    assert_eq!(end(&mut child), 8);
    nothing_is_left(&bed);
}

/// CPU time that a process has used, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_process_that_closes_its_stdio_costs_nothing() {
    let mut bed = bed("closed");
    bed.shell("touch /dev/shm/closed; exec sleep 1000 <&- >&- 2>&-");
    // With input that nobody reads, with none, and with one that has ended.
    for input in ["pending", "none", "ended"] {
        let mut child = piped(&bed, &["run", &bed.id()]);
        let mut stdin = child.stdin.take();
        match input {
            "pending" => stdin.as_mut().unwrap().write_all(&[b'x'; 50_000]).unwrap(),
            "none" => {}
            _ => drop(stdin.take()),
        }
        std::thread::sleep(Duration::from_millis(500));
        let before = ticks(child.id());
        std::thread::sleep(Duration::from_secs(1));
        let used = ticks(child.id()) - before;
        assert!(used < 5, "{input}: {used} ticks in a second");
        assert!(bed.tare(&["kill", &bed.id(), "KILL"]).status.success());
        assert_eq!(end(&mut child), 137);
    }
}

#[test]
fn a_dev_pts_must_be_there() {
    let mut bed = bed("no-devpts");
    bed.config["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev/pts");
    bed.shell("true");
    for (code, stdout, stderr) in bed.run() {
        assert!(code == 1 && stdout.is_empty(), "{stdout}");
        assert!(stderr.starts_with("tare: process.terminal: open the container's /dev/ptmx"), "{stderr}");
        assert!(stderr.contains("hint: a terminal needs a mount of devpts on /dev/pts"), "{stderr}");
    }
    nothing_is_left(&bed);
}

#[test]
fn without_a_mount_namespace_it_is_one_of_the_hosts() {
    let mut bed = bed("no-mount-namespace");
    bed.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "mount");
    bed.config["mounts"] = json!([]);
    for field in ["maskedPaths", "readonlyPaths"] {
        bed.config["linux"][field] = json!([]);
    }
    bed.config["root"]["readonly"] = json!(false);
    // Its rootfs has no /dev of its own, so there is nothing to open.
    bed.shell("test -t 0 && echo a terminal");
    let out = bed.tare(&["run", &bed.id()]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.code() == Some(1) && said.contains("process.terminal: open the container's /dev/ptmx"),
        "{out:?}"
    );
    nothing_is_left(&bed);
}
