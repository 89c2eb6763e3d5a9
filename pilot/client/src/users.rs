//! The calls of users.

use super::*;

/// Payloads in one answer, where all are wanted.
const PAGE: u32 = 200;

impl Client {
    /// `POST /v1/delegations`; repeated under one id, so that a lost answer leaves no second key in the queue.
    pub async fn new_delegation(&self, patience: Duration) -> Result<Delegation, ClientError> {
        let asked = NewDelegation { id: Some(Uuid::now_v7()) };
        self.patiently(patience, || self.post("/v1/delegations", &asked, 0)).await
    }

    /// `PUT /v1/delegations/{id}`.
    pub async fn sign_delegation(&self, id: Uuid, chain: &SignedChain) -> Result<(), ClientError> {
        self.tell(Method::PUT, &format!("/v1/delegations/{id}"), chain).await
    }

    /// `PUT /v1/blobs/{sha256}`.
    pub async fn put_blob(&self, sha256: &str, body: Body) -> Result<(), ClientError> {
        self.transfer(&format!("/v1/blobs/{sha256}"), body).await
    }

    /// `POST /v1/payloads`; repeated under the submission's id, by which the queue knows it again.
    pub async fn submit(
        &self,
        patience: Duration,
        submission: &Submission,
    ) -> Result<Submitted, ClientError> {
        self.patiently(patience, || self.post("/v1/payloads", submission, 0)).await
    }

    /// `GET /v1/payloads`: those that are asked for, page by page. Oldest first, as [`Payload::listed`].
    pub async fn listed(&self, which: &Which) -> Result<Vec<Payload>, ClientError> {
        let mut which = which.clone();
        let mut pages: Vec<Vec<Payload>> = Vec::new();
        loop {
            let asked = Which { limit: which.limit.min(pilot_api::PAGE), ..which.clone() };
            let page: Vec<Payload> = self.get(&format!("/v1/payloads?{}", asked.query()), 0).await?;
            let got = u32::try_from(page.len()).unwrap_or(u32::MAX);
            which.limit = which.limit.saturating_sub(got);
            which.before = page.first().map(|oldest| oldest.id);
            pages.push(page);
            if got < asked.limit || which.limit == 0 {
                return Ok(pages.into_iter().rev().flatten().collect());
            }
        }
    }

    /// The same in pieces, which each is taken down before the next is asked for: what one answer holds is bounded, whatever
    /// is stored. Oldest first.
    pub async fn listed_all<T>(
        &self,
        patience: Duration,
        which: &Which,
        take: impl Fn(&Payload) -> T,
    ) -> Result<Vec<T>, ClientError> {
        let mut which = Which { limit: PAGE, ..which.clone() };
        let mut all = Vec::new();
        loop {
            let page = self.patiently(patience, || self.listed(&which)).await?;
            all.extend(page.iter().rev().map(&take));
            let Some(oldest) = page.first().filter(|_| page.len() >= PAGE as usize) else { break };
            which.before = Some(oldest.id);
        }
        all.reverse();
        Ok(all)
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status", 0).await
    }

    /// `GET /v1/payloads/{id}`; with `wait` (seconds) held until it is final.
    pub async fn payload(&self, id: Uuid, wait: u64) -> Result<Payload, ClientError> {
        let query = if wait > 0 { format!("?wait={wait}&final=1") } else { String::new() };
        self.get(&format!("/v1/payloads/{id}{query}"), wait).await
    }

    /// The certificate that the queue shows, DER: its key signs callbacks.
    ///
    /// # Errors
    /// When the queue cannot be reached.
    pub async fn queue_certificate(&self) -> Result<Vec<u8>, ClientError> {
        let answer = self.send(self.request(Method::GET, "/healthz"), CALL).await?;
        let shown =
            answer.extensions().get::<reqwest::tls::TlsInfo>().and_then(|info| info.peer_certificate());
        shown.map(<[u8]>::to_vec).ok_or_else(|| self.strange("it shows no certificate".to_owned()))
    }

    /// `GET /v1/payloads/{id}/events`.
    pub async fn events(&self, id: Uuid) -> Result<Vec<HistoryEntry>, ClientError> {
        self.get(&format!("/v1/payloads/{id}/events"), 0).await
    }

    /// `POST /v1/payloads/{id}/{cancel,hold}`.
    pub async fn wish(&self, id: Uuid, word: &str) -> Result<Payload, ClientError> {
        self.post(&format!("/v1/payloads/{id}/{word}"), &(), 0).await
    }

    /// `POST /v1/payloads/{id}/release`.
    pub async fn release(&self, id: Uuid, release: &Release) -> Result<Payload, ClientError> {
        self.post(&format!("/v1/payloads/{id}/release"), release, 0).await
    }

    /// `GET /v1/payloads/{id}/logs/{stream}`.
    pub async fn log(
        &self,
        id: Uuid,
        stream: &str,
        offset: u64,
        wait: u64,
        attempt: Option<u32>,
    ) -> Result<LogPart, ClientError> {
        let attempt = attempt.map(|n| format!("&attempt={n}")).unwrap_or_default();
        let path = format!("/v1/payloads/{id}/logs/{stream}?offset={offset}&wait={wait}{attempt}");
        let answer = self.send(self.request(Method::GET, &path), CALL + Duration::from_secs(wait)).await?;
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok());
        let (end, attempt) =
            (header("x-log-end") == Some("1"), header("x-log-attempt").and_then(|n| n.parse().ok()));
        let bytes = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
        Ok(LogPart { bytes, end, attempt })
    }

    /// `GET /v1/payloads/{id}/output`: a tar stream.
    pub async fn output(&self, id: Uuid) -> Result<Response, ClientError> {
        self.send(self.request(Method::GET, &format!("/v1/payloads/{id}/output")), TRANSFER).await
    }

    /// `GET /v1/pilots`.
    pub async fn pilots(&self) -> Result<Vec<Pilot>, ClientError> {
        self.get("/v1/pilots", 0).await
    }

    /// `GET /v1/runs`: what pilots told of attempts that ended in that time, seconds since the epoch; a page behind `after`.
    pub async fn runs(
        &self,
        since: u64,
        until: u64,
        after: Option<Uuid>,
    ) -> Result<Vec<ClaimedRun>, ClientError> {
        let after = after.map(|id| format!("&after={id}")).unwrap_or_default();
        self.get(&format!("/v1/runs?since={since}&until={until}{after}"), 0).await
    }

    /// `GET /v1/demand`.
    pub async fn demand(&self) -> Result<Vec<Demand>, ClientError> {
        self.get("/v1/demand", 0).await
    }

    /// `POST /v1/pilots/{p}/drain`.
    pub async fn drain(&self, pilot: Uuid) -> Result<(), ClientError> {
        self.tell(Method::POST, &format!("/v1/pilots/{pilot}/drain"), &()).await
    }
}
