//! What is left of an attempt, on its way to the queue: the rest of its logs, its output, its result.

use super::*;
use crate::delivery::{Answer, Delivered, Delivery};
use crate::health::Experience;
use crate::lease::{Conclusion, settle_output};
use crate::results::Results;
use crate::session::Output;
use crate::spool::Shipped;
use backon::Retryable;
use openssl::base64::encode_block;
use pilot_api::{Attached, AttemptResult, Outcome, OutputSummary, Report, Rest};
use pilot_client::{ClientError, Pauses, file_body};

impl Work<'_> {
    /// Delivers logs, output and the result; only the loss of the lease cuts it short, and not once the queue has the
    /// result.
    pub(super) async fn conclude(&mut self, mut shipping: Shipping, stops: &mut Stops) {
        let ids = (self.lease.payload, self.lease.attempt);
        let (outcome, report) = match self.effects.conclusion.take() {
            Some(Conclusion::Report(outcome, report)) => (outcome, *report),
            Some(Conclusion::Return) => return self.hand_back(stops).await,
            Some(Conclusion::Silent) | None => {
                tracing::info!(payload = %ids.0, attempt = %ids.1, "payload ended, lease handed back or lost");
                timeout(LAST_WORDS, async { while shipping.join_next().await.is_some() {} }).await.ok();
                return;
            }
        };
        tracing::info!(payload = %ids.0, attempt = %ids.1, outcome = %outcome, exit_code = report.exit_code,
            reason = report.reason, wall_ms = report.wall_ms, cpu_ms = report.cpu_ms, "payload ended");
        self.agent.registry.note(match outcome {
            Outcome::Infra if self.user_refused => Experience::Refused(&self.lease.owner),
            Outcome::Infra => Experience::Bad,
            _ => Experience::Good,
        });
        let stored = tokio::select! {
            stored = self.deliver_files(shipping, outcome, report.clone()) => Some(stored),
            reason = cut_short(stops) => (reason == StopReason::Cancel).then(|| {
                let reason = Some("cancelled while its logs and output files were stored".to_owned());
                (Outcome::Killed, Report { reason, ..report }, Attached::default())
            }),
        };
        let delivered = match stored {
            Some((outcome, report, attached)) => {
                let result = AttemptResult { lease: self.lease.lease, outcome, returned: false, report };
                self.deliver(&result, attached, stops).await
            }
            None => Delivered::Lost,
        };
        match delivered {
            Delivered::Yes => tracing::debug!(payload = %ids.0, attempt = %ids.1, "result delivered"),
            Delivered::Lost => {
                tracing::warn!(payload = %ids.0, attempt = %ids.1, "lease lost before the result was delivered");
            }
            // The reason was told when the answer came.
            Delivered::Refused => (),
        }
    }

    /// Gives back what has not begun, so that another pilot gets it now and not when this one ends.
    async fn hand_back(&self, stops: &mut Stops) {
        let reason = Some("handed back before it began".to_owned());
        let report = Report { host: self.agent.node.host.clone(), reason, ..Report::default() };
        let lease = self.lease.lease;
        let result = AttemptResult { lease, outcome: Outcome::Infra, returned: true, report };
        let delivered = self.deliver(&result, Attached::default(), stops).await;
        tracing::info!(payload = %self.lease.payload, attempt = %self.lease.attempt, ?delivered, "lease handed back before it began");
    }

    /// Begins to send the logs; at most `rest` bytes of each are left for the result.
    pub(super) fn ship(&self, session: &Session, rest: u64) -> Shipping {
        let mut shipping = Shipping::new();
        let ids = (self.lease.attempt, self.lease.lease);
        for (spool, stream) in session.logs().into_iter().zip(["stdout", "stderr"]) {
            let client = self.agent.client.clone();
            shipping.spawn(async move { (stream, spool.ship(client, ids, stream, rest).await) });
        }
        shipping
    }

    /// Logs and output, and what of them is small enough to go with the result; what could not be stored is added to the
    /// report.
    async fn deliver_files(
        &self,
        mut shipping: Shipping,
        outcome: Outcome,
        mut report: Report,
    ) -> (Outcome, Report, Attached) {
        let mut attached = Attached::default();
        while let Some(shipped) = shipping.join_next().await {
            match shipped {
                Ok((_, Shipped::Missing(text))) => {
                    report.reason =
                        Some(report.reason.map_or(text.clone(), |reason| format!("{reason}; {text}")));
                }
                Ok((stream, Shipped::Rest(offset, bytes))) => {
                    let rest = Some(Rest { offset, base64: encode_block(&bytes) });
                    *(if stream == "stdout" { &mut attached.stdout } else { &mut attached.stderr }) = rest;
                }
                Ok((_, Shipped::All)) | Err(_) => (),
            }
        }
        match self.effects.session.as_ref().and_then(Session::output) {
            Some(Output::Small(bytes)) if bytes.len() as u64 <= self.terms.most_attached => {
                attached.output = Some(encode_block(bytes));
            }
            Some(output) => self.upload_or_note(output, &mut report).await,
            None => (),
        }
        let (outcome, report) = settle_output(outcome, report, self.lease.spec.missing_output);
        (outcome, report, attached)
    }

    async fn upload_or_note(&self, output: Output<'_>, report: &mut Report) {
        if let Err(e) = self.upload(output).await {
            tracing::error!(attempt = %self.lease.attempt, error = format!("{e:#}"), "output files were not stored");
            let mut output = OutputSummary { broken: true, ..report.output.take().unwrap_or_default() };
            // The refusal says most, so it stands first.
            output.notes.clear();
            output.note(&format!("{e:#}"));
            report.output = Some(output);
        }
    }

    /// Stores by itself what the queue did not take with the result.
    async fn store_singly(&self, result: &mut AttemptResult) {
        let Some(session) = &self.effects.session else { return };
        let mut shipping = self.ship(session, 0);
        while let Some(shipped) = shipping.join_next().await {
            if let Ok((_, Shipped::Missing(text))) = shipped {
                let reason = result.report.reason.take();
                result.report.reason =
                    Some(reason.map_or(text.clone(), |reason| format!("{reason}; {text}")));
            }
        }
        if let Some(output) = session.output() {
            self.upload_or_note(output, &mut result.report).await;
            let report = result.report.clone();
            (result.outcome, result.report) =
                settle_output(result.outcome, report, self.lease.spec.missing_output);
        }
    }

    async fn deliver(&self, result: &AttemptResult, mut attached: Attached, stops: &mut Stops) -> Delivered {
        let (mut delivery, mut pauses) = (Delivery::default(), Pauses::default());
        let mut result = result.clone();
        loop {
            delivery.send();
            let results = self.agent.results.get_or_init(|| Results::deliver(self.agent.client.clone()));
            let answered = {
                let mut sent = pin!(results.send(self.lease.attempt, &result, &attached));
                loop {
                    tokio::select! {
                        sent = &mut sent => break sent,
                        () = lost(stops) => if let Some(delivered) = delivery.lose() { return delivered },
                    }
                }
            };
            let apart = !attached.is_empty() && answered.as_ref().is_err_and(|e| wants_it_apart(e));
            let answer = match &answered {
                Ok(()) => Answer::Taken,
                Err(_) if apart => Answer::Unknown,
                Err(e) => self.refusal(e),
            };
            if let Some(delivered) = delivery.answer(answer) {
                return delivered;
            }
            let next = async {
                if apart {
                    self.store_singly(&mut result).await;
                } else {
                    sleep(pauses.after_failure()).await;
                }
            };
            tokio::select! {
                () = next => (),
                () = lost(stops) => if let Some(delivered) = delivery.lose() { return delivered },
            }
            if apart {
                attached = Attached::default();
            }
        }
    }

    fn refusal(&self, error: &ClientError) -> Answer {
        if error.code() == Some("lease_superseded") {
            return Answer::Late;
        }
        if error.is_final() {
            tracing::error!(attempt = %self.lease.attempt, %error, "the queue does not take the result");
            return Answer::Refused;
        }
        tracing::warn!(attempt = %self.lease.attempt, %error, "the queue has not taken the result yet");
        Answer::Unknown
    }

    async fn upload(&self, output: Output<'_>) -> Result<()> {
        let put = || async {
            let body = match output {
                Output::Small(bytes) => bytes.to_vec().into(),
                Output::File(path) => {
                    file_body(tokio::fs::File::open(path).await.context("cannot read them back")?)
                }
            };
            let put = self.agent.client.put_output(self.lease.attempt, self.lease.lease, body);
            put.await.map_err(anyhow::Error::from)
        };
        let may_succeed = |e: &anyhow::Error| e.downcast_ref::<ClientError>().is_some_and(|e| !e.is_final());
        put.retry(Pauses::default()).sleep(sleep).when(may_succeed).await
    }
}

/// Whether the queue refuses what a result brings along and may take it by itself, such as when part of a log is missing.
fn wants_it_apart(error: &ClientError) -> bool {
    matches!(error, ClientError::Problem(problem) if !problem.retryable && problem.code != "lease_superseded")
}

async fn lost(stops: &mut Stops) {
    while cut_short(stops).await != StopReason::Lost {}
}

/// Waits for a reason that counts even when the payload is over.
async fn cut_short(stops: &mut Stops) -> StopReason {
    while let Some(reason) = stops.recv().await {
        if reason >= StopReason::Cancel {
            return reason;
        }
    }
    std::future::pending().await
}
