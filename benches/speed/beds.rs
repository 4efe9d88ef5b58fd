//! What is measured: roots with few and with many credentials, and processes.

use std::cell::OnceCell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::util::{Agent, Bed, Way};

/// As many credentials as an agent takes by default.
pub(crate) const MANY: usize = 20_000;

/// The credential that changes.
pub(crate) const SITE: &str = "site";

/// The root with many credentials, which is made once and only if something needs it.
#[derive(Default)]
pub(crate) struct Beds {
    many: OnceCell<Bed>,
}

impl Beds {
    pub(crate) fn many(&self) -> &Bed {
        self.many.get_or_init(|| kubelet_bed(MANY))
    }
}

/// A root of `count` credentials as kubelet writes them: [`SITE`], and the others by number.
pub(crate) fn kubelet_bed(count: usize) -> Bed {
    // The agent watches the folders above a root, and in /tmp others may be busy.
    let bed = Bed::new_in(Path::new("/var/tmp"));
    let write = |name: &str| {
        let identity = bed.ca.server(&[&format!("{name}.test")]);
        Way::Kubelet.write(&bed.root, name, 0, &identity);
    };
    (1..count).for_each(|number| write(&other(number)));
    write(SITE);
    bed
}

/// The name of a credential that does not change.
pub(crate) fn other(number: usize) -> String {
    format!("other-{number}")
}

/// An agent that serves [`SITE`], and a client that takes it.
pub(crate) struct Rotating<'a> {
    bed: &'a Bed,
    pub(crate) agent: Agent,
    pub(crate) client: Client,
}

impl<'a> Rotating<'a> {
    pub(crate) fn start(bed: &'a Bed) -> Self {
        let agent = bed.agent();
        let mut client = Client::connect(&bed.socket());
        client.subscribe(&[SITE.to_owned()]);
        client.next();
        Self { bed, agent, client }
    }

    /// Swaps the pair as kubelet does. Returns when that began.
    pub(crate) fn swap(&self) -> Instant {
        let identity = self.bed.ca.server(&["site.test"]);
        let generation = new_generation(self.bed);
        let start = Instant::now();
        Way::Kubelet.write(&self.bed.root, SITE, generation, &identity);
        start
    }

    /// Swaps the pair, and returns how long it took to arrive, including the writing.
    pub(crate) fn rotate(&mut self) -> Duration {
        let start = self.swap();
        self.client.next();
        start.elapsed()
    }
}

/// A number that no swap in that root has used: kubelet names generations by the time.
pub(crate) fn new_generation(bed: &Bed) -> usize {
    let used = bed.root.beside("used");
    let last = fs::read_to_string(&used).map_or(0, |last| last.parse().unwrap());
    fs::write(&used, (last + 1).to_string()).unwrap();
    last + 1
}

/// The time that all threads of a process have run, which the kernel counts in nanoseconds.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let of_task = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    Duration::from_nanos(tasks.map(Result::unwrap).filter_map(of_task).sum())
}

/// The processor time of an agent.
pub(crate) fn spent(agent: &Agent) -> Duration {
    processor_time(agent.pid().as_raw_nonzero().get().unsigned_abs())
}

/// The processor time of this process, in which the clients are.
pub(crate) fn spent_here() -> Duration {
    processor_time(std::process::id())
}
