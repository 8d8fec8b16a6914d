//! What a person sees while a command works: a bar on a terminal, plain lines otherwise; nothing on stdout.

use super::Context;
use crate::ask::{Ask, Reply};
use crate::delegate::{self, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::watch;

/// A bar, or lines.
pub(super) struct Progress {
    bar: ProgressBar,
    lines: bool,
    last: String,
}

impl Progress {
    pub(super) fn new(context: &Context) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal && !context.json {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(1000), target);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed_precise}  {wide_msg}")
        {
            bar.set_style(style);
        }
        if terminal && !context.json {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self {
            bar,
            lines: !terminal && !context.json,
            last: String::new(),
        }
    }

    pub(super) fn show(&mut self, share: f64, message: String) {
        self.bar.set_position((share * 1000.0) as u64);
        if self.lines && self.last != message {
            eprintln!("{message}");
        }
        self.bar.set_message(message.clone());
        self.last = message;
    }

    fn stage(&mut self, stage: &Stage) {
        match stage {
            Stage::Connecting => {}
            Stage::Asked { host } => self.show(
                0.0,
                format!("asked the publisher that holds the lease: {host}"),
            ),
            Stage::Writing(view) => match &view.scan {
                Some(scan) => {
                    let tenths = (scan.progress * 10.0).floor() / 10.0;
                    let share = if self.lines { tenths } else { scan.progress };
                    let message = match scan.progress >= 1.0 {
                        true => "all ranges read; waiting for the stores".to_owned(),
                        false => format!("reading: {:.0} %", share * 100.0),
                    };
                    self.show(share, message);
                }
                None => {
                    let open = view
                        .stores
                        .iter()
                        .filter(|s| s.standing == "in step" || s.standing == "behind")
                        .count();
                    self.show(
                        0.0,
                        format!(
                            "this process is the writer; {open} of {} stores answer",
                            view.stores.len()
                        ),
                    );
                }
            },
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Gets something done and shows how far it is.
pub(super) async fn ask(context: &Context, ask: Ask) -> Result<Reply, super::Stop> {
    let parts = &context.parts;
    watch(context, |stage| async move {
        delegate::ask(parts, ask, &stage).await
    })
    .await
}

/// Shows how far a piece of work is.
pub(super) async fn watch<W: Future<Output = Result<Reply, String>>>(
    context: &Context,
    work: impl FnOnce(watch::Sender<Stage>) -> W,
) -> Result<Reply, super::Stop> {
    let mut progress = Progress::new(context);
    let (stage, mut stages) = watch::channel(Stage::Connecting);
    let work = work(stage);
    tokio::pin!(work);
    let reply = loop {
        tokio::select! {
            reply = &mut work => break reply,
            Ok(()) = stages.changed() => {
                let now = stages.borrow_and_update().clone();
                progress.stage(&now);
            }
        }
    };
    progress.finish();
    match reply.map_err(super::Stop::Failed)? {
        Reply::Failed(why) => Err(super::Stop::Failed(why)),
        reply => Ok(reply),
    }
}
