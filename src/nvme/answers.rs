//! What is done with each answer of the admin queue.

use nvme_platform::Time;

use super::admin::{Answer, Job};
use super::controller::Controller;
use super::event::{AbortOutcome, Event};

impl Controller {
    pub(super) fn answered(&mut self, answer: Answer, now: Time) {
        let Answer { job, completion, data } = answer;
        match job {
            Job::IdentifyController => self.identified(&completion, &data),
            Job::IdentifyNvm => self.identified_nvm(&completion, &data),
            Job::NumberOfQueues { pairs } => self.queues_granted(pairs, &completion),
            Job::WriteCacheOn => self.write_cache_set(&completion),
            Job::EventConfiguration { .. } => self.events_configured(&completion),
            Job::NamespaceList { after } => self.namespaces_listed(after, &completion, &data),
            Job::IdentifyNamespace { nsid } => self.namespace_identified(nsid, &completion, &data),
            Job::Descriptors { nsid } => self.described(nsid, &completion, &data),
            Job::AsyncEvent => self.event_came(&completion),
            Job::Log { id, asked } => self.log_came(id, asked, &completion, &data),
            Job::CreateCq { id, .. } => self.cq_created(id, completion.status),
            Job::CreateSq { id, .. } => self.sq_created(id, completion.status, now),
            Job::DeleteSq { id } => self.sq_deleted(id, completion.status),
            Job::DeleteCq { id } => self.cq_deleted(id, completion.status),
            Job::Abort { pair, cid } => {
                // Bit 0: the command was not aborted (Base 5.1).
                let aborted = completion.status.ok() && completion.dw0 & 1 == 0;
                let outcome = if aborted { AbortOutcome::Aborted } else { AbortOutcome::NotAborted };
                self.events.push_back(Event::Aborted { pair, cid, outcome });
            }
        }
    }
}
