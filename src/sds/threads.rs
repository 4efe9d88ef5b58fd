//! The threads that connections run on, one for each processor, up to a limit.
//!
//! A connection and all of its streams stay on one thread. On several, they would contend for the locks that h2
//! has for each connection, which costs up to half as much as all the rest of a delivery.

use std::io;
use std::num::NonZero;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The most threads: each one takes memory, which may be locked, and so many can serve every Envoy of a machine.
const MOST: usize = 8;

/// The threads. They end when this is dropped, and with them what runs on them.
pub struct Threads {
    threads: Vec<Thread>,
    _until: DropGuard,
}

struct Thread {
    runtime: Handle,
    connections: TaskTracker,
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// The system has no more threads or file descriptors.
    pub fn start() -> io::Result<Self> {
        let count = available_parallelism().map_or(1, NonZero::get).min(MOST);
        let until = CancellationToken::new();
        let threads = (0..count).map(|_| Thread::start(until.clone()));
        Ok(Self {
            threads: threads.collect::<io::Result<_>>()?,
            _until: until.drop_guard(),
        })
    }

    /// Runs `connection` on the thread with the fewest of them.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let threads = self.threads.iter();
        if let Some(thread) = threads.min_by_key(|thread| thread.connections.len()) {
            let connections = &thread.connections;
            connections.spawn_on(connection, &thread.runtime);
        }
    }

    /// How many connections have not ended.
    pub fn connections(&self) -> usize {
        let threads = self.threads.iter();
        threads.map(|thread| thread.connections.len()).sum()
    }

    /// Waits until every connection has ended. There must be no new ones.
    pub async fn connections_ended(&self) {
        for thread in &self.threads {
            thread.connections.close();
            thread.connections.wait().await;
        }
    }

    /// Waits until every thread has run a task. Never ends while one of them is stuck.
    pub async fn progress(&self) {
        for thread in &self.threads {
            // It fails if the thread has ended.
            if thread.runtime.spawn(async {}).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Thread {
    fn start(until: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            // A busy thread looks for streams that others have woken, and for new requests, after so many tasks, by
            // default after 31 and 61.
            .global_queue_interval(5)
            .event_interval(31)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("connections".to_owned())
            .spawn(move || {
                runtime.block_on(until.cancelled());
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            connections: TaskTracker::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    /// Starts a connection that never ends by itself, and returns its thread.
    async fn connect(threads: &Threads) -> (ThreadId, oneshot::Receiver<()>) {
        let (send, id) = oneshot::channel();
        let (open, ended) = oneshot::channel();
        threads.spawn(async move {
            let _ = send.send(thread::current().id());
            std::future::pending::<()>().await;
            drop(open);
        });
        (id.await.unwrap(), ended)
    }

    #[tokio::test]
    async fn connections_are_spread_over_the_threads_and_end_with_them() {
        let threads = Threads::start().unwrap();
        let count = threads.threads.len();
        let mut used = HashSet::new();
        let mut ends = Vec::new();
        for _ in 0..2 * count {
            let (thread, ended) = connect(&threads).await;
            used.insert(thread);
            ends.push(ended);
        }
        assert_eq!((used.len(), threads.connections()), (count, 2 * count));
        drop(threads);
        for ended in ends {
            assert!(ended.await.is_err());
        }
    }

    #[tokio::test]
    async fn a_stuck_thread_makes_no_progress() {
        let threads = Threads::start().unwrap();
        threads.progress().await;
        let (release, stuck) = mpsc::channel::<()>();
        let (reached, is_reached) = oneshot::channel();
        threads.spawn(async move {
            let _ = reached.send(());
            // Blocks the thread until the sender is dropped.
            let _ = stuck.recv();
        });
        is_reached.await.unwrap();
        let moves = tokio::time::timeout(Duration::from_millis(100), threads.progress());
        assert!(moves.await.is_err());
        drop(release);
        threads.progress().await;
        threads.connections_ended().await;
        assert_eq!(threads.connections(), 0);
    }
}
