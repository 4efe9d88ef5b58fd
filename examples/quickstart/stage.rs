//! The temporary folder and the running programs of the tour, which are removed and stopped at its end.

use std::fmt::Display;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Why the tour can't continue: what failed, why, and what to do about it.
pub(crate) struct Failure {
    what: String,
    why: String,
    how: String,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, why: impl Display, how: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.to_string(),
            how: how.into(),
        }
    }

    /// Prints the failure, with the last lines of the programs' logs.
    pub(crate) fn report(&self, stage: Option<&Stage>) -> ExitCode {
        eprintln!(
            "\nquickstart: {}: {}\n  What to do: {}",
            self.what, self.why, self.how
        );
        for name in stage.map(Stage::started).unwrap_or_default() {
            let log = stage.map(|stage| stage.log(&name)).unwrap_or_default();
            let log = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("\n  The last lines of {name}:");
            for line in &lines[lines.len().saturating_sub(10)..] {
                eprintln!("    {line}");
            }
        }
        ExitCode::FAILURE
    }
}

/// The folder and the programs. They are removed and stopped when this is dropped, and at Ctrl-C.
pub(crate) struct Stage {
    folder: PathBuf,
    /// Shared with the thread that waits for Ctrl-C.
    running: Arc<Running>,
}

#[derive(Default)]
struct Running {
    folder: Mutex<Option<TempDir>>,
    programs: Mutex<Vec<(String, Child)>>,
    /// Whether the tour is complete, so that Ctrl-C is a successful end.
    over: Mutex<bool>,
}

impl Stage {
    pub(crate) fn new() -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("sds-quickstart-")
            .tempdir()
            .map_err(|error| {
                Failure::new(
                    "can't make a temporary folder",
                    error,
                    "set TMPDIR to a folder with room",
                )
            })?;
        let path = folder.path().to_owned();
        let running = Arc::new(Running::default());
        *lock(&running.folder) = Some(folder);
        end_at_ctrl_c(Arc::clone(&running))?;
        Ok(Self {
            folder: path,
            running,
        })
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// Writes a file in the folder, and returns its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        fs::write(&path, content).map_err(|error| {
            let what = format!("can't write {}", path.display());
            Failure::new(what, error, "make room there, or set TMPDIR")
        })?;
        Ok(path)
    }

    /// Starts a program, whose output goes to its log.
    pub(crate) fn start(&self, name: &str, command: &mut Command) -> Result<(), Failure> {
        let log = File::create(self.log(name)).and_then(|file| Ok((file.try_clone()?, file)));
        let child =
            log.and_then(|(out, err)| command.stdin(Stdio::null()).stdout(out).stderr(err).spawn());
        let child = child.map_err(|error| {
            let program = command.get_program().to_string_lossy();
            Failure::new(format!("can't run {program}"), error, "run this again")
        })?;
        lock(&self.running.programs).push((name.to_owned(), child));
        Ok(())
    }

    fn started(&self) -> Vec<String> {
        let programs = lock(&self.running.programs);
        programs.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Waits until `probe` returns a value. `found` describes the current state, for the error.
    pub(crate) fn wait_until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut probe: impl FnMut() -> Option<T>,
        found: impl Fn() -> String,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(value) = probe() {
                return Ok(value);
            }
            self.check_programs()?;
            if Instant::now() > deadline {
                let what = format!("waited {} s without success for {what}", patience.as_secs());
                return Err(Failure::new(
                    what,
                    found(),
                    "see the last lines of the programs below",
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails if a program has ended.
    fn check_programs(&self) -> Result<(), Failure> {
        for (name, child) in lock(&self.running.programs).iter_mut() {
            if let Ok(Some(status)) = child.try_wait() {
                let what = format!("{name} has ended");
                return Err(Failure::new(what, status, "see its last lines below"));
            }
        }
        Ok(())
    }

    /// Waits for Ctrl-C, which ends this program.
    pub(crate) fn wait_for_ctrl_c(&self) {
        *lock(&self.running.over) = true;
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.end();
    }
}

impl Running {
    fn end(&self) {
        for (_, child) in &mut *lock(&self.programs) {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(lock(&self.folder).take());
    }
}

/// Starts a thread that stops everything on SIGINT and SIGTERM. The terminal also sends SIGINT to the programs,
/// which then stop by themselves.
fn end_at_ctrl_c(running: Arc<Running>) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};

    let failed = |error| Failure::new("can't wait for signals", error, "run this again");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let context = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    drop(context);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
        });
        running.end();
        let over = *lock(&running.over);
        // 128 + SIGINT, the status that a shell reports for an interrupted program.
        std::process::exit(if over { 0 } else { 130 });
    });
    Ok(())
}

/// A free port of this machine: `preferred` if that is free.
pub(crate) fn free_port(preferred: u16) -> Result<u16, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", preferred))
        .or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    let address = listener.and_then(|listener| listener.local_addr());
    let failed = |error| Failure::new("there is no free port on 127.0.0.1", error, "free one");
    Ok(address.map_err(failed)?.port())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
