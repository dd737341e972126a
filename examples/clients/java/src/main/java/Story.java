import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import limiter.v1.*;

/**
 * Tells the story of all clients: a policy, commits up to its limit, a batch, a stream, two errors.
 * The account is the first argument; LIMITER_ADDRESS names the server.
 */
public final class Story {
    private final ManagedChannel channel;
    private final String account;

    private Story(ManagedChannel channel, String account) {
        this.channel = channel;
        this.account = account;
    }

    public static void main(String[] arguments) throws Exception {
        String address = System.getenv().getOrDefault("LIMITER_ADDRESS", "127.0.0.1:50051");
        String account = arguments.length > 0 ? arguments[0] : "story";
        ManagedChannel channel =
                Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
        try {
            Story story = new Story(channel, account);
            story.makePolicy();
            story.fill();
            story.batch();
            story.stream();
            story.mistake();
            story.deadline();
        } finally {
            channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
        }
    }

    private DecisionServiceGrpc.DecisionServiceBlockingStub decisions() {
        return DecisionServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
    }

    /** `OUTCOME_ALLOWED` as "ALLOWED". */
    private static String word(Outcome outcome) {
        return outcome.name().replace("OUTCOME_", "");
    }

    /** Three people in any 24 hours, applied as one set: doing it again changes nothing. */
    private void makePolicy() {
        Limit limit = Limit.newBuilder()
                .setLimitId("people-a-day")
                .setCap(Cap.newBuilder()
                        .setMeasure(Measure.MEASURE_CONTACTS)
                        .setMaxCount(3)
                        .setWindow(Window.newBuilder()
                                .setRolling(Duration.newBuilder().setSeconds(86_400))))
                .setEnforcement(Enforcement.ENFORCEMENT_ENFORCED)
                .build();
        Policy policy = Policy.newBuilder()
                .setName("accounts/" + account + "/policies/story")
                .addLimits(limit)
                .build();
        Assignment assignment = Assignment.newBuilder()
                .setName("accounts/" + account + "/assignments/story")
                .setPolicy(policy.getName())
                .setScope(Scope.newBuilder().setAccount(account))
                .build();
        PolicyServiceGrpc.newBlockingStub(channel)
                .withDeadlineAfter(10, TimeUnit.SECONDS)
                .applyPolicies(ApplyPoliciesRequest.newBuilder()
                        .addPolicies(policy)
                        .addAssignments(assignment)
                        .build());
        System.out.println("policy: 3 people in any 24 hours");
    }

    /** The request; its id makes it safe to repeat. */
    private CommitRequest commitOf(String contact) {
        return CommitRequest.newBuilder()
                .setAttempt(Attempt.newBuilder().setAccount(account).setContact(contact))
                .setRequestId("hello-" + contact)
                .build();
    }

    /** Commits until the limit says no, then one again under the same request id. */
    private void fill() {
        for (String contact : List.of("ada", "grace", "edsger", "barbara")) {
            Decision decision = decisions().commit(commitOf(contact)).getDecision();
            if (decision.getOutcome() == Outcome.OUTCOME_ALLOWED) {
                long left = decision.getLimitStatuses(0).getRemainingCount();
                System.out.printf("%s: ALLOWED, %d left%n", contact, left);
            } else {
                String limit = decision.getBindingLimit().getLimitId();
                Instant retry = Instant.ofEpochSecond(
                        decision.getRetryTime().getSeconds(), decision.getRetryTime().getNanos());
                System.out.printf("%s: %s by %s, not before %s%n",
                        contact, word(decision.getOutcome()), limit, retry);
            }
        }
        CommitResponse again = decisions().commit(commitOf("grace"));
        System.out.printf("grace again: %s, %s%n",
                word(again.getDecision().getOutcome()),
                again.getReplayed() ? "replayed" : "counted twice");
    }

    /** Four recipients at one instant, one of them twice. */
    private void batch() {
        CommitBatchRequest.Builder request = CommitBatchRequest.newBuilder()
                .setAttempt(Attempt.newBuilder().setAccount(account))
                .setExcludeDuplicates(true);
        for (String contact : List.of("ada", "barbara", "donald", "ada")) {
            request.addRecipients(Recipient.newBuilder().setContact(contact));
        }
        CommitBatchResponse reply = decisions().commitBatch(request.build());
        System.out.printf("batch: %d accepted, %d denied, %d duplicate%n",
                reply.getAcceptedCount(), reply.getDeniedCount(), reply.getDuplicateCount());
    }

    /** Replies come in the order of the requests. */
    private void stream() {
        List<String> contacts = List.of("ada", "barbara", "grace");
        Replies replies = new Replies();
        StreamObserver<CommitRequest> requests = DecisionServiceGrpc.newStub(channel)
                .withDeadlineAfter(10, TimeUnit.SECONDS)
                .commitStream(replies);
        contacts.forEach(contact -> requests.onNext(commitOf(contact)));
        requests.onCompleted();
        List<String> words = new ArrayList<>();
        for (CommitResponse reply : replies.all.join()) {
            words.add(contacts.get(words.size()) + " " + word(reply.getDecision().getOutcome()));
        }
        System.out.println("stream: " + String.join(", ", words));
    }

    /** An error says which field breaks a rule. */
    private void mistake() throws InvalidProtocolBufferException {
        try {
            decisions().commit(commitOf(""));
        } catch (StatusRuntimeException error) {
            String reason = "";
            String field = "";
            for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    reason = detail.unpack(ErrorInfo.class).getReason();
                } else if (detail.is(BadRequest.class)) {
                    field = detail.unpack(BadRequest.class).getFieldViolations(0).getField();
                }
            }
            System.out.printf("error: %s %s, %s%n", error.getStatus().getCode(), reason, field);
        }
    }

    /** A stream that is never written to is never answered: the deadline ends it. */
    private void deadline() {
        Replies replies = new Replies();
        DecisionServiceGrpc.newStub(channel)
                .withDeadlineAfter(200, TimeUnit.MILLISECONDS)
                .commitStream(replies);
        Throwable error = replies.all.handle((all, fault) -> fault).join();
        System.out.printf("deadline: %s%n", Status.fromThrowable(error).getCode());
    }

    /** Collects the replies of a stream until it ends. */
    private static final class Replies implements StreamObserver<CommitResponse> {
        final CompletableFuture<List<CommitResponse>> all = new CompletableFuture<>();
        private final List<CommitResponse> seen = new ArrayList<>();

        @Override
        public void onNext(CommitResponse reply) {
            seen.add(reply);
        }

        @Override
        public void onError(Throwable error) {
            all.completeExceptionally(error);
        }

        @Override
        public void onCompleted() {
            all.complete(seen);
        }
    }
}
