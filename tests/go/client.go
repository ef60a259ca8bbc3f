// The programs of rocketmq-client-go that the tests run: consume and produce.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// One moment of the run.
type mark struct {
	seen int64
	at   time.Time
	cpu  float64
}

// What is read of an envelope; encoding/json is fastest into a struct.
type envelope struct {
	Content  string `json:"content"`
	UserNick string `json:"user_nick"`
}

// What the listener counts.
type tally struct {
	warmUp, wanted  int64
	seen, nickBytes atomic.Int64
	begin           sync.Once
	first, last     mark
	done            chan struct{}
}

func (t *tally) take(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	if t.seen.Load() >= t.warmUp {
		t.begin.Do(func() { t.first = mark{t.seen.Load(), time.Now(), processorSeconds()} })
	}
	for _, message := range messages {
		var whole envelope
		if err := json.Unmarshal(message.Body, &whole); err != nil {
			return consumer.ConsumeRetryLater, err
		}
		var content map[string]any
		if err := json.Unmarshal([]byte(whole.Content), &content); err != nil {
			return consumer.ConsumeRetryLater, err
		}
		t.nickBytes.Add(int64(len(whole.UserNick)))
	}
	count := int64(len(messages))
	if total := t.seen.Add(count); total >= t.wanted && total-count < t.wanted {
		t.last = mark{total, time.Now(), processorSeconds()}
		close(t.done)
	}
	return consumer.ConsumeSuccess, nil
}

func main() {
	rlog.SetLogLevel("fatal")
	programs := map[string]func([]string){"consume": consume, "produce": produce}
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		check(fmt.Errorf("which one: consume or produce"))
	}
	programs[os.Args[1]](os.Args[2:])
}

// The push consumer, as Consume.java uses the Java one: parses every envelope and the JSON inside its content, reads
// user_nick, and prints after N messages what that cost, as one JSON line.
//
//	consume --name-server host:port --topic T --group G --messages N [--broadcasting] [--warm-up 0]
//	        [--pull-batch 32] [--consume-batch 1] [--goroutines 20] [--timeout 120] [--linger]
//
// Seconds run from the first message to the last of the N; those of the warm-up come before and count for nothing.
func consume(arguments []string) {
	options := flag.NewFlagSet("consume", flag.ExitOnError)
	nameServer := options.String("name-server", "", "host:port")
	topic := options.String("topic", "", "")
	group := options.String("group", "", "")
	messages := options.Int64("messages", 0, "how many are measured")
	broadcasting := options.Bool("broadcasting", false, "")
	warmUp := options.Int64("warm-up", 0, "how many come before")
	pullBatch := options.Int("pull-batch", 32, "")
	consumeBatch := options.Int("consume-batch", 1, "")
	goroutines := options.Int("goroutines", 20, "")
	timeout := options.Int("timeout", 120, "seconds")
	linger := options.Bool("linger", false, "stay until stdin ends: the last offsets are committed as time goes on")
	check(options.Parse(arguments))

	model := consumer.Clustering
	if *broadcasting {
		model = consumer.BroadCasting
	}
	client, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer([]string{*nameServer}),
		consumer.WithGroupName(*group),
		consumer.WithConsumerModel(model),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithPullBatchSize(int32(*pullBatch)),
		consumer.WithConsumeMessageBatchMaxSize(*consumeBatch),
		consumer.WithConsumeGoroutineNums(*goroutines),
	)
	check(err)
	t := &tally{warmUp: *warmUp, wanted: *warmUp + *messages, done: make(chan struct{})}
	check(client.Subscribe(*topic, consumer.MessageSelector{}, t.take))
	check(client.Start())
	select {
	case <-t.done:
	case <-time.After(time.Duration(*timeout) * time.Second):
		check(fmt.Errorf("only %d of %d messages came in time", t.seen.Load(), t.wanted))
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"messages":                t.last.seen - t.first.seen,
		"seconds":                 t.last.at.Sub(t.first.at).Seconds(),
		"cpu_seconds":             t.last.cpu,
		"cpu_seconds_since_first": t.last.cpu - t.first.cpu,
		"peak_rss_kb":             usage().Maxrss,
		"nick_bytes":              t.nickBytes.Load(),
	}))
	if *linger {
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	_ = client.Shutdown()
}

func usage() syscall.Rusage {
	var spent syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &spent))
	return spent
}

func processorSeconds() float64 {
	spent := usage()
	return float64(spent.Utime.Nano()+spent.Stime.Nano()) / 1e9
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
