// Tells the story of all clients: a policy, commits up to its limit, a batch, a stream, two errors.
// The account is the first argument; LIMITER_ADDRESS names the server.
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");
const protobuf = require("protobufjs");

const PROTO = path.join(__dirname, "..", "..", "..", "proto");
const { limiter } = grpc.loadPackageDefinition(
  loadSync(["limiter/v1/decision_service.proto", "limiter/v1/policy_service.proto"], {
    includeDirs: [PROTO],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
  }),
);

// What an error carries beside its status: the parts of google.rpc that are read here.
const { root } = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message BadRequest {
    repeated FieldViolation field_violations = 1;
    message FieldViolation { string field = 1; string description = 2; }
  }`, { keepCase: true });

const within = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

// Calls a unary method; resolves to its reply.
const call = (client, method, request) =>
  new Promise((resolve, reject) => {
    client[method](request, within(10), (error, reply) => (error ? reject(error) : resolve(reply)));
  });

const word = (outcome) => outcome.replace("OUTCOME_", "");

const instant = (time) => {
  const text = new Date(time.seconds * 1000 + time.nanos / 1e6).toISOString();
  return text.replace(".000Z", "Z");
};

// The request; its id makes it safe to repeat.
const commitOf = (account, contact) => ({
  attempt: { account, contact },
  request_id: `hello-${contact}`,
});

// Three people in any 24 hours, applied as one set: doing it again changes nothing.
async function makePolicy(policies, account) {
  const cap = { measure: "MEASURE_CONTACTS", max_count: 3, window: { rolling: { seconds: 86400 } } };
  const limit = { limit_id: "people-a-day", cap, enforcement: "ENFORCEMENT_ENFORCED" };
  const policy = { name: `accounts/${account}/policies/story`, limits: [limit] };
  const assignment = {
    name: `accounts/${account}/assignments/story`,
    policy: policy.name,
    scope: { account },
  };
  await call(policies, "ApplyPolicies", { policies: [policy], assignments: [assignment] });
  console.log("policy: 3 people in any 24 hours");
}

// Commits until the limit says no, then one again under the same request id.
async function fill(decisions, account) {
  for (const contact of ["ada", "grace", "edsger", "barbara"]) {
    const { decision } = await call(decisions, "Commit", commitOf(account, contact));
    if (decision.outcome === "OUTCOME_ALLOWED") {
      console.log(`${contact}: ALLOWED, ${decision.limit_statuses[0].remaining_count} left`);
    } else {
      const why = `${word(decision.outcome)} by ${decision.binding_limit.limit_id}`;
      console.log(`${contact}: ${why}, not before ${instant(decision.retry_time)}`);
    }
  }
  const again = await call(decisions, "Commit", commitOf(account, "grace"));
  const replayed = again.replayed ? "replayed" : "counted twice";
  console.log(`grace again: ${word(again.decision.outcome)}, ${replayed}`);
}

// Four recipients at one instant, one of them twice.
async function batch(decisions, account) {
  const reply = await call(decisions, "CommitBatch", {
    attempt: { account },
    recipients: ["ada", "barbara", "donald", "ada"].map((contact) => ({ contact })),
    exclude_duplicates: true,
  });
  const counts = `${reply.accepted_count} accepted, ${reply.denied_count} denied`;
  console.log(`batch: ${counts}, ${reply.duplicate_count} duplicate`);
}

// Replies come in the order of the requests.
async function stream(decisions, account) {
  const contacts = ["ada", "barbara", "grace"];
  const open = decisions.CommitStream(within(10));
  contacts.forEach((contact) => open.write(commitOf(account, contact)));
  open.end();
  const words = [];
  for await (const { decision } of open) {
    words.push(`${contacts[words.length]} ${word(decision.outcome)}`);
  }
  console.log(`stream: ${words.join(", ")}`);
}

// An error says which field breaks a rule.
async function mistake(decisions, account) {
  try {
    await call(decisions, "Commit", commitOf(account, ""));
  } catch (error) {
    const [bytes] = error.metadata.get("grpc-status-details-bin");
    const details = {};
    for (const { type_url, value } of root.lookupType("Status").decode(bytes).details) {
      const name = type_url.replace("type.googleapis.com/google.rpc.", "");
      if (root.get(name)) details[name] = root.lookupType(name).decode(value);
    }
    const { field } = details.BadRequest.field_violations[0];
    console.log(`error: ${grpc.status[error.code]} ${details.ErrorInfo.reason}, ${field}`);
  }
}

// A stream that is never written to is never answered: the deadline ends it.
async function deadline(decisions) {
  const open = decisions.CommitStream(within(0.2));
  const error = await new Promise((resolve) => open.on("error", resolve).resume());
  console.log(`deadline: ${grpc.status[error.code]}`);
}

async function main() {
  const address = process.env.LIMITER_ADDRESS ?? "127.0.0.1:50051";
  const account = process.argv[2] ?? "story";
  const credentials = grpc.credentials.createInsecure();
  const policies = new limiter.v1.PolicyService(address, credentials);
  const decisions = new limiter.v1.DecisionService(address, credentials);
  await makePolicy(policies, account);
  await fill(decisions, account);
  await batch(decisions, account);
  await stream(decisions, account);
  await mistake(decisions, account);
  await deadline(decisions);
  policies.close();
  decisions.close();
}

main();
