//! Writes log lines to standard error on a separate thread: many lines with one system call, and without
//! blocking other threads when standard error accepts no more.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of buffered lines. Audit lines have a higher limit than others.
const LIMIT: usize = 1024 * 1024;
const AUDIT_LIMIT: usize = 4 * 1024 * 1024;

/// How long a thread waits for space in the buffer. After that, no thread waits until standard error accepts
/// lines again.
const PATIENCE: Duration = Duration::from_secs(1);

/// After a burst of lines has been written, the next ones are collected for this long.
const GATHER: Duration = Duration::from_millis(1);

/// Bytes written at a time.
const PIECE: usize = 64 * 1024;

/// The destination of the lines.
type Sink = dyn Fn(&[u8]) -> io::Result<()> + Send + Sync;

/// A buffer of log lines. Until [`Lines::start`], lines are written directly.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Signals that there is something to write.
    filled: Condvar,
    /// Signals that lines were taken or written.
    emptied: Condvar,
    sink: Box<Sink>,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    /// Whether a thread writes the lines.
    started: bool,
    /// Whether that thread checks for lines without being woken.
    awake: bool,
    /// Whether it holds lines that are not written yet.
    writing: bool,
    /// Whether nothing has been taken for [`PATIENCE`].
    stuck: bool,
    /// Lines lost since this was last reported.
    lost: u64,
    lost_in_all: Counter,
}

impl Queue {
    fn lose(&mut self, lines: u64) {
        self.lost += lines;
        self.lost_in_all.inc_by(lines);
    }
}

impl Lines {
    /// A buffer for `sink`, which gets many lines at a time.
    pub fn new(sink: impl Fn(&[u8]) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            sink: Box::new(sink),
        }))
    }

    /// Starts the thread that writes the lines. If that fails, lines are still written directly.
    pub fn start(&self) {
        let shared = self.0.clone();
        shared.lock().started = true;
        let thread = thread::Builder::new().name("log".into());
        if let Err(error) = thread.spawn({
            let shared = shared.clone();
            move || shared.run()
        }) {
            shared.lock().started = false;
            tracing::warn!(%error, "log lines are written one by one; raise the limit on threads");
        }
    }

    /// Counts lost lines in `counter` from now on.
    pub fn count_lost(&self, counter: Counter) {
        self.0.lock().lost_in_all = counter;
    }

    /// Waits until everything is written, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let queue = self.0.lock();
        let is_busy = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        let waited = self.0.emptied.wait_timeout_while(queue, limit, is_busy);
        drop(waited);
    }

    fn push(&self, line: &[u8], limit: usize) -> io::Result<()> {
        let shared = &self.0;
        let mut queue = shared.lock();
        if !queue.started {
            drop(queue);
            return (shared.sink)(line);
        }
        let is_full = |queue: &mut Queue| queue.lines.len() + line.len() > limit;
        if is_full(&mut queue) && !queue.stuck {
            let waited = shared.emptied.wait_timeout_while(queue, PATIENCE, is_full);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.stuck = is_full(&mut queue);
        }
        if is_full(&mut queue) {
            queue.lose(1);
            return Ok(());
        }
        queue.lines.extend_from_slice(line);
        if !std::mem::replace(&mut queue.awake, true) {
            shared.filled.notify_one();
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut batch = Vec::new();
        loop {
            self.take(&mut batch);
            let mut failed = 0;
            for piece in batch.chunks(PIECE) {
                if (self.sink)(piece).is_err() {
                    failed += piece.iter().filter(|byte| **byte == b'\n').count();
                }
            }
            batch.clear();
            let mut queue = self.lock();
            (queue.writing, queue.stuck) = (false, false);
            queue.lose(failed as u64);
            let lost = std::mem::take(&mut queue.lost);
            drop(queue);
            self.emptied.notify_all();
            if lost > 0 && failed == 0 {
                tracing::warn!(
                    lines = lost,
                    "log lines were lost because standard error did not accept them in time"
                );
            }
            thread::sleep(GATHER);
        }
    }

    /// Waits for lines, and takes all of them.
    fn take(&self, batch: &mut Vec<u8>) {
        let mut queue = self.lock();
        while queue.lines.is_empty() {
            // Room that a burst has made is kept until its end.
            queue.lines.shrink_to(PIECE);
            batch.shrink_to(PIECE);
            queue.awake = false;
            let woken = self.filled.wait(queue);
            queue = woken.unwrap_or_else(PoisonError::into_inner);
        }
        queue.writing = true;
        std::mem::swap(&mut queue.lines, batch);
        drop(queue);
        self.emptied.notify_all();
    }
}

/// Writes one line, as a whole.
pub struct Line<'a> {
    lines: &'a Lines,
    limit: usize,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.push(line, self.limit)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            limit: LIMIT,
        }
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Line<'a> {
        Line {
            lines: self,
            limit: match line.target() {
                "audit" => AUDIT_LIMIT,
                _ => LIMIT,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Nothing takes longer than this.
    const BOUND: Duration = Duration::from_secs(20);

    /// What was written, each time.
    type Written = Arc<Mutex<Vec<Vec<u8>>>>;

    fn recorded() -> (Lines, Written) {
        let written = Written::default();
        let record = written.clone();
        let lines = Lines::new(move |piece| {
            record.lock().unwrap().push(piece.to_owned());
            Ok(())
        });
        (lines, written)
    }

    #[test]
    fn every_line_is_written_in_order_and_many_at_a_time() {
        let (lines, written) = recorded();
        lines.push(b"first\n", LIMIT).unwrap();
        assert_eq!(written.lock().unwrap().len(), 1, "at once without a thread");
        lines.start();
        let mut expected = b"first\n".to_vec();
        for n in 0..10_000 {
            let line = format!("line {n}\n");
            lines.push(line.as_bytes(), LIMIT).unwrap();
            expected.extend_from_slice(line.as_bytes());
        }
        lines.flush(BOUND);
        let written = written.lock().unwrap();
        assert_eq!(written.concat(), expected);
        assert!(written.len() < 5_000, "{} writes", written.len());
    }

    #[test]
    fn a_blocked_sink_delays_no_writer_for_long_and_losses_are_counted() {
        let gate = Arc::new(Mutex::new(()));
        let taken = Arc::new(AtomicUsize::new(0));
        let (opened, count) = (gate.clone(), taken.clone());
        let lines = Lines::new(move |piece| {
            drop(opened.lock());
            count.fetch_add(piece.len(), Ordering::Relaxed);
            Ok(())
        });
        lines.start();
        let lost = Counter::default();
        lines.count_lost(lost.clone());
        let line = [b'x'; 1024];
        let closed = gate.lock().unwrap();
        for _ in 0..3 * LIMIT / line.len() {
            lines.push(&line, LIMIT).unwrap();
        }
        let lost_lines = lost.get();
        assert!(lost_lines > 0);
        // Audit lines still have space, and are only lost after using all of it.
        let room = (AUDIT_LIMIT - LIMIT) / line.len();
        for _ in 0..room {
            lines.push(&line, AUDIT_LIMIT).unwrap();
        }
        assert_eq!(lost.get(), lost_lines);
        lines.push(&line, AUDIT_LIMIT).unwrap();
        assert_eq!(lost.get(), lost_lines + 1);
        drop(closed);
        lines.flush(BOUND);
        let pushed = 3 * LIMIT / line.len() + room + 1;
        let written = taken.load(Ordering::Relaxed) / line.len();
        assert_eq!(written as u64 + lost.get(), pushed as u64);
        lines.push(&line, LIMIT).unwrap();
        lines.flush(BOUND);
        assert_eq!(lost.get(), lost_lines + 1, "there is room again");
    }

    #[test]
    fn lines_that_can_not_be_written_are_counted() {
        let lines = Lines::new(|_| Err(io::ErrorKind::BrokenPipe.into()));
        lines.start();
        let lost = Counter::default();
        lines.count_lost(lost.clone());
        lines.push(b"a\nb\n", LIMIT).unwrap();
        lines.flush(BOUND);
        assert_eq!(lost.get(), 2);
    }
}
