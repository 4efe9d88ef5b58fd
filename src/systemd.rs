//! Notifications to systemd: ready, reloading, stopping, a line of status, and that the agent is alive.
//! Everything here does nothing where the agent does not run as a unit.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

/// The agent serves: everything was read and the socket accepts. Also ends a reload.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// A reload has begun. `ready` ends it.
pub fn reloading() {
    // systemd takes only the reload that began after it sent the signal.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("the clock can't be read: {error}"),
    }
}

/// The line that `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&one_line(status))]);
}

/// The agent has begun to end.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("can't notify systemd: {error}");
    }
}

/// The protocol is lines: a second one would be another message.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// Whether each part of the agent makes progress: it asks them, and a loop that is stuck or a task that has ended
/// does not answer.
#[derive(Debug, Default)]
pub struct Liveness {
    parts: Mutex<Vec<Part>>,
}

#[derive(Clone, Debug)]
struct Part {
    name: &'static str,
    ask: watch::Sender<u64>,
    answer: watch::Receiver<u64>,
}

/// The side of one part: its loop awaits [`Heartbeat::beat`] among its other work.
#[derive(Debug)]
pub struct Heartbeat {
    asked: watch::Receiver<u64>,
    answer: watch::Sender<u64>,
}

/// A part that did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent(pub &'static str);

impl Liveness {
    /// Registers a part that has to answer from now on. It replaces the one that was registered under the same
    /// name.
    pub fn part(&self, name: &'static str) -> Heartbeat {
        let (ask, asked) = watch::channel(0);
        let (answer, answered) = watch::channel(0);
        let mut parts = self.lock();
        parts.retain(|part| part.name != name);
        parts.push(Part {
            name,
            ask,
            answer: answered,
        });
        Heartbeat { asked, answer }
    }

    /// Asks every part and waits for the answers, for as long as `within`.
    ///
    /// # Errors
    /// The first part that did not answer.
    pub async fn check(&self, within: Duration) -> Result<(), Silent> {
        let until = tokio::time::Instant::now() + within;
        let parts = self.lock().clone();
        let asked: Vec<_> = parts.into_iter().map(Part::ask).collect();
        for (mut part, question) in asked {
            let answer = part.answer.wait_for(|answer| *answer >= question);
            match tokio::time::timeout_at(until, answer).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return Err(Silent(part.name)),
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn ask(self) -> (Self, u64) {
        self.ask.send_modify(|question| *question += 1);
        let question = *self.ask.borrow();
        (self, question)
    }
}

impl Heartbeat {
    /// Waits for the next question and answers it. Can be cancelled. Once the [`Liveness`] is gone, it never
    /// returns.
    pub async fn beat(&mut self) {
        self.beat_after(async {}).await;
    }

    /// As [`beat`](Self::beat); the answer is given once `work` is done.
    pub async fn beat_after(&mut self, work: impl Future<Output = ()>) {
        if self.asked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let question = *self.asked.borrow_and_update();
        work.await;
        self.answer.send_replace(question);
    }
}

/// Feeds the watchdog of the unit (`WatchdogSec=`) for as long as every part answers. Returns immediately if the
/// unit has none, and otherwise never.
pub async fn feed_watchdog(liveness: &Liveness) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Three chances before systemd loses patience.
    let interval = limit / 3;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent = None;
    loop {
        ticks.tick().await;
        let now = liveness.check(interval).await.err();
        if now.is_none() {
            notify(&[NotifyState::Watchdog]);
        }
        if now != silent {
            report(now, interval, limit);
            silent = now;
        }
    }
}

fn report(silent: Option<Silent>, asked: Duration, limit: Duration) {
    match silent {
        Some(Silent(part)) => tracing::error!(
            "the {part} has not reported progress for {} s; systemd restarts the agent after {} s",
            asked.as_secs_f32(),
            limit.as_secs_f32()
        ),
        None => tracing::info!("every part of the agent reports progress again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn answering(mut heartbeat: Heartbeat) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                heartbeat.beat().await;
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn parts_that_answer_are_alive_each_time() {
        let liveness = Liveness::default();
        answering(liveness.part("a"));
        answering(liveness.part("b"));
        for _ in 0..3 {
            assert_eq!(liveness.check(LIMIT).await, Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_stuck_or_has_ended_is_named() {
        let liveness = Liveness::default();
        answering(liveness.part("a"));
        let stuck = liveness.part("b");
        assert_eq!(liveness.check(LIMIT).await, Err(Silent("b")));
        drop(stuck);
        assert_eq!(liveness.check(LIMIT).await, Err(Silent("b")));

        let again = answering(liveness.part("b"));
        assert_eq!(liveness.check(LIMIT).await, Ok(()));
        again.abort();
        assert_eq!(liveness.check(LIMIT).await, Err(Silent("b")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_does_not_count_for_a_new_question() {
        let liveness = Liveness::default();
        let mut heartbeat = liveness.part("a");
        let (checked, ()) = tokio::join!(liveness.check(LIMIT), heartbeat.beat());
        assert_eq!(checked, Ok(()));
        assert_eq!(liveness.check(LIMIT).await, Err(Silent("a")));
    }

    #[test]
    fn a_status_cannot_send_a_second_message() {
        assert_eq!(one_line("fine\nWATCHDOG=trigger"), "fine WATCHDOG=trigger");
    }
}
