//! A child process: its output line by line, its end, and its use of resources.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use super::wait::eventually;

/// How many of the last lines are shown when a test fails.
const LINES_SHOWN: usize = 100;

/// A running program; killed when dropped. Its output is shown when the test fails.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        let lines = Arc::default();
        collect(child.stdout.take().unwrap(), Arc::clone(&lines));
        collect(child.stderr.take().unwrap(), Arc::clone(&lines));
        Self {
            name: name.to_owned(),
            child,
            lines,
        }
    }

    /// All output so far, standard output and standard error.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The lines that contain all of `pieces`.
    pub(crate) fn lines_with(&self, pieces: &[&str]) -> Vec<String> {
        let holds = |line: &&String| pieces.iter().all(|piece| line.contains(piece));
        self.lines().iter().filter(holds).cloned().collect()
    }

    /// Waits for a line that contains all of `pieces`, and returns it. The first `skip` lines are ignored: a test
    /// that waits for the next line passes the number of lines so far.
    #[track_caller]
    pub(crate) fn wait_for_line_after(&self, skip: usize, pieces: &[&str]) -> String {
        eventually(&format!("a line of {} with {pieces:?}", self.name), || {
            let lines = self.lines.lock().unwrap();
            lines
                .iter()
                .skip(skip)
                .find(|line| pieces.iter().all(|piece| line.contains(piece)))
                .cloned()
        })
    }

    /// Waits for a line that contains all of `pieces`, which may be an earlier one, and returns it.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, pieces: &[&str]) -> String {
        self.wait_for_line_after(0, pieces)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("the end of {name}"), || {
            self.child.try_wait().unwrap()
        })
    }

    /// Whether it is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL, and waits for its end.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// How many files, sockets included, it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// Processor time used so far, in clock ticks (10 ms), user and system.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = self.proc_file("stat");
        // The fields after the name, which is in parentheses and may contain anything.
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    pub(crate) fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines = self.lines();
            let last = lines.len().saturating_sub(LINES_SHOWN);
            eprintln!("--- output of {}, without {last} lines ---", self.name);
            for line in &lines[last..] {
                eprintln!("{line}");
            }
            eprintln!("--- end of the output of {} ---", self.name);
        }
    }
}

fn collect(output: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap().push(line);
        }
    });
}
