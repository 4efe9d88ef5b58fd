//! Runs blocking work on a few separate threads. Work that waits for a thread costs only its future, and is
//! cancelled if that is dropped.
//!
//! This does not use the threads of [`tokio::task::spawn_blocking`], because they read the files, and requests of
//! clients must not occupy them.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

/// A limited number of threads.
#[derive(Clone, Debug)]
pub struct Pool {
    name: &'static str,
    threads: Arc<Semaphore>,
}

impl Pool {
    /// A pool of `threads` threads, each named `name`.
    pub fn new(name: &'static str, threads: usize) -> Self {
        Self {
            name,
            threads: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Runs `work` when a thread is free. `None` if it panicked, or the system has no more threads.
    pub async fn run<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let place = self.threads.clone().acquire_owned().await.ok()?;
        let (sender, result) = oneshot::channel();
        let thread = std::thread::Builder::new().name(self.name.to_owned());
        let started = thread.spawn(move || {
            let _place = place;
            // The caller may have stopped waiting.
            let _ = sender.send(work());
        });
        if let Err(error) = started {
            tracing::warn!(thread = self.name, "no thread can be started: {error}");
            return None;
        }
        result.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_is_done_and_a_panic_has_no_result() {
        let pool = Pool::new("test", 1);
        assert_eq!(pool.run(|| 7).await, Some(7));
        assert_eq!(pool.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(pool.run(|| 8).await, Some(8));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn waiting_work_is_cancelled_with_its_future() {
        let pool = Pool::new("test", 1);
        let (release, blocked) = mpsc::channel::<()>();
        let hung = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || blocked.recv()).await }
        });
        while pool.threads.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let runs = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let runs = runs.clone();
            let work = pool.run(move || runs.fetch_add(1, Ordering::Relaxed));
            let mut work = std::pin::pin!(work);
            let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(work.as_mut().poll(cx)));
            assert!(waits.await.is_pending());
        }
        drop(release);
        assert!(hung.await.unwrap().unwrap().is_err());
        pool.run(|| ()).await;
        assert_eq!(runs.load(Ordering::Relaxed), 0);
    }
}
