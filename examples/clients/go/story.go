// Tells the story of all clients: a policy, commits up to its limit, a batch, a stream, two errors.
// The account is the first argument; LIMITER_ADDRESS names the server.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "story/limiterv1"
)

const timeout = 10 * time.Second

// word is `OUTCOME_ALLOWED` as "ALLOWED".
func word(outcome pb.Outcome) string {
	return strings.TrimPrefix(outcome.String(), "OUTCOME_")
}

// codeOf is the status code of a failed call as all languages write it.
func codeOf(err error) string {
	return code.Code(status.Code(err)).String()
}

// makePolicy applies three people in any 24 hours as one set: doing it again changes nothing.
func makePolicy(ctx context.Context, policies pb.PolicyServiceClient, account string) error {
	limit := &pb.Limit{
		LimitId: "people-a-day",
		Rule: &pb.Limit_Cap{Cap: &pb.Cap{
			Measure:  pb.Measure_MEASURE_CONTACTS,
			MaxCount: 3,
			Window: &pb.Window{
				Span: &pb.Window_Rolling{Rolling: durationpb.New(24 * time.Hour)},
			},
		}},
		Enforcement: pb.Enforcement_ENFORCEMENT_ENFORCED,
	}
	policy := &pb.Policy{
		Name:   fmt.Sprintf("accounts/%s/policies/story", account),
		Limits: []*pb.Limit{limit},
	}
	assignment := &pb.Assignment{
		Name:   fmt.Sprintf("accounts/%s/assignments/story", account),
		Policy: policy.Name,
		Scope:  &pb.Scope{Account: account},
	}
	_, err := policies.ApplyPolicies(ctx, &pb.ApplyPoliciesRequest{
		Policies:    []*pb.Policy{policy},
		Assignments: []*pb.Assignment{assignment},
	})
	if err == nil {
		fmt.Println("policy: 3 people in any 24 hours")
	}
	return err
}

// commitOf is a request; its id makes it safe to repeat.
func commitOf(account, contact string) *pb.CommitRequest {
	return &pb.CommitRequest{
		Attempt:   &pb.Attempt{Account: account, Contact: contact},
		RequestId: "hello-" + contact,
	}
}

// fill commits until the limit says no, then one again under the same request id.
func fill(ctx context.Context, decisions pb.DecisionServiceClient, account string) error {
	for _, contact := range []string{"ada", "grace", "edsger", "barbara"} {
		reply, err := decisions.Commit(ctx, commitOf(account, contact))
		if err != nil {
			return err
		}
		decision := reply.Decision
		if decision.Outcome == pb.Outcome_OUTCOME_ALLOWED {
			fmt.Printf("%s: ALLOWED, %d left\n", contact, decision.LimitStatuses[0].RemainingCount)
		} else {
			retry := decision.RetryTime.AsTime().Format(time.RFC3339Nano)
			limit := decision.BindingLimit.LimitId
			fmt.Printf("%s: %s by %s, not before %s\n", contact, word(decision.Outcome), limit, retry)
		}
	}
	again, err := decisions.Commit(ctx, commitOf(account, "grace"))
	if err != nil {
		return err
	}
	replayed := "counted twice"
	if again.Replayed {
		replayed = "replayed"
	}
	fmt.Printf("grace again: %s, %s\n", word(again.Decision.Outcome), replayed)
	return nil
}

// batch sends to four recipients at one instant, one of them twice.
func batch(ctx context.Context, decisions pb.DecisionServiceClient, account string) error {
	request := &pb.CommitBatchRequest{
		Attempt:           &pb.Attempt{Account: account},
		ExcludeDuplicates: true,
	}
	for _, contact := range []string{"ada", "barbara", "donald", "ada"} {
		request.Recipients = append(request.Recipients, &pb.Recipient{Contact: contact})
	}
	reply, err := decisions.CommitBatch(ctx, request)
	if err != nil {
		return err
	}
	fmt.Printf("batch: %d accepted, %d denied, %d duplicate\n",
		reply.AcceptedCount, reply.DeniedCount, reply.DuplicateCount)
	return nil
}

// stream gets its replies in the order of the requests.
func stream(ctx context.Context, decisions pb.DecisionServiceClient, account string) error {
	open, err := decisions.CommitStream(ctx)
	if err != nil {
		return err
	}
	contacts := []string{"ada", "barbara", "grace"}
	for _, contact := range contacts {
		if err := open.Send(commitOf(account, contact)); err != nil {
			return err
		}
	}
	if err := open.CloseSend(); err != nil {
		return err
	}
	var words []string
	for {
		reply, err := open.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		words = append(words, contacts[len(words)]+" "+word(reply.Decision.Outcome))
	}
	fmt.Println("stream: " + strings.Join(words, ", "))
	return nil
}

// mistake gets an error, which says which field breaks a rule.
func mistake(ctx context.Context, decisions pb.DecisionServiceClient, account string) error {
	_, err := decisions.Commit(ctx, commitOf(account, ""))
	var reason, field string
	for _, detail := range status.Convert(err).Details() {
		switch found := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = found.Reason
		case *errdetails.BadRequest:
			field = found.FieldViolations[0].Field
		}
	}
	fmt.Printf("error: %s %s, %s\n", codeOf(err), reason, field)
	return nil
}

// deadline ends a stream that is never written to and so never answered.
func deadline(ctx context.Context, decisions pb.DecisionServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	open, err := decisions.CommitStream(ctx)
	if err != nil {
		return err
	}
	_, err = open.Recv()
	fmt.Printf("deadline: %s\n", codeOf(err))
	return nil
}

func tell(address, account string) error {
	connection, err := grpc.NewClient(
		address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := makePolicy(ctx, pb.NewPolicyServiceClient(connection), account); err != nil {
		return err
	}
	decisions := pb.NewDecisionServiceClient(connection)
	for _, part := range []func(context.Context, pb.DecisionServiceClient, string) error{
		fill, batch, stream, mistake,
	} {
		if err := part(ctx, decisions, account); err != nil {
			return err
		}
	}
	return deadline(ctx, decisions)
}

func main() {
	address, account := os.Getenv("LIMITER_ADDRESS"), "story"
	if address == "" {
		address = "127.0.0.1:50051"
	}
	if len(os.Args) > 1 {
		account = os.Args[1]
	}
	if err := tell(address, account); err != nil {
		log.Fatal(err)
	}
}
