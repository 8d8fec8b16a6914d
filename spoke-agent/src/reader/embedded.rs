//! The agent runs inside the gateway: a read is a look into its memory.

use super::{Answer, Changes, ContextReader, Options, Reply, answer, answer_from};
use crate::clock::Clock;
use crate::serve::watch::Watches;
use crate::store::view::{View, Views};

/// Reads an agent of this process. Cheap to clone; it does not keep the agent running.
#[derive(Clone)]
pub struct Embedded {
    views: Views,
    watches: Watches,
    clock: Clock,
    options: Options,
}

impl Embedded {
    pub(crate) fn new(views: Views, watches: Watches, clock: Clock, options: Options) -> Self {
        Self {
            views,
            watches,
            clock,
            options,
        }
    }

    /// What is known of one key. Where all is in memory this neither allocates nor waits; while the agent starts or
    /// is filled for the first time, or where memory is bounded, it may read the file.
    pub fn look_up(&self, kind: &str, key: &str) -> Reply {
        let fresh = self.views.reach().fresh;
        let index = self.views.guard();
        let answer = match index.as_ref() {
            Some(state) if state.is_whole() => answer_from(index, kind, key),
            _ => self.said_by_view(kind, key),
        };
        self.options.reply_at(answer, fresh, self.clock.reading())
    }

    fn said_by_view(&self, kind: &str, key: &str) -> Answer {
        match self.views.take().and_then(|view| view.look_up(kind, key)) {
            Ok(lookup) => answer(lookup),
            Err(error) => {
                tracing::error!(%error, "a read failed");
                Answer::NotReady
            }
        }
    }

    /// What is known of many keys, from one state of the store.
    pub fn look_up_many(&self, keys: &[(&str, &str)]) -> Vec<Reply> {
        let fresh = self.views.reach().fresh;
        let now = self.clock.reading();
        let view: Option<View> = self.views.take().ok();
        let one = |(kind, key): &(&str, &str)| {
            let found = view.as_ref().map(|view| view.look_up(kind, key));
            let answer = match found {
                Some(Ok(lookup)) => answer(lookup),
                _ => Answer::NotReady,
            };
            self.options.reply_at(answer, fresh, now)
        };
        keys.iter().map(one).collect()
    }
}

impl ContextReader for Embedded {
    async fn get(&self, kind: &str, key: &str) -> Reply {
        self.look_up(kind, key)
    }

    async fn get_many(&self, keys: &[(&str, &str)]) -> Vec<Reply> {
        self.look_up_many(keys)
    }

    fn changes(&self) -> Changes {
        self.watches.changes()
    }
}
