package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// Sends N messages of one body, one by one and each acknowledged, from some goroutines; prints how many.
//
//	produce --name-server host:port --topic T --messages N --body TEXT [--goroutines 4]
func produce(arguments []string) {
	options := flag.NewFlagSet("produce", flag.ExitOnError)
	nameServer := options.String("name-server", "", "host:port")
	topic := options.String("topic", "", "")
	messages := options.Int64("messages", 0, "how many are sent")
	body := options.String("body", "", "of each")
	goroutines := options.Int("goroutines", 4, "")
	check(options.Parse(arguments))

	client, err := rocketmq.NewProducer(
		producer.WithNameServer([]string{*nameServer}),
		producer.WithGroupName("PID_go"),
		producer.WithRetry(2),
	)
	check(err)
	check(client.Start())
	var next, sent atomic.Int64
	send := func(number int64) {
		message := primitive.NewMessage(*topic, []byte(*body))
		message.WithTag("A").WithKeys([]string{fmt.Sprintf("k%d", number)})
		result, err := client.SendSync(context.Background(), message)
		check(err)
		if result.Status == primitive.SendOK {
			sent.Add(1)
		}
	}
	// The first goes alone: this client shows a route to other goroutines before it knows the route's broker addresses
	// (internal/route.go, UpdateTopicRouteInfoWithDefault), and those fail with "route info not found".
	send(next.Add(1))
	var all sync.WaitGroup
	for range make([]struct{}, *goroutines) {
		all.Add(1)
		go func() {
			defer all.Done()
			for number := next.Add(1); number <= *messages; number = next.Add(1) {
				send(number)
			}
		}()
	}
	all.Wait()
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"messages": sent.Load()}))
	_ = client.Shutdown()
}
