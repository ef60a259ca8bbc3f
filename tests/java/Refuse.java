import com.alibaba.fastjson2.JSONObject;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * The official push consumer in clustering that fails every message, as one does whose database is down: each goes back
 * to the broker for later. It leaves in order after N messages, and prints how many it sent back in all.
 *
 * <p>{@code --name-server host:port --topic T --group G --messages N [--tags *] [--timeout 120]}. The first delay level
 * is asked for, so that a message comes again after a second; a message it has failed before counts for nothing.
 */
public final class Refuse {
    private final long wanted;
    private final AtomicLong first = new AtomicLong();
    private final AtomicLong again = new AtomicLong();
    private final CountDownLatch done = new CountDownLatch(1);

    private Refuse(long wanted) {
        this.wanted = wanted;
    }

    public static void main(String[] words) {
        try {
            Arguments arguments = new Arguments(words);
            Refuse refuse = new Refuse(arguments.number("messages", 1));
            DefaultMQPushConsumer consumer = refuse.start(arguments);
            boolean complete = refuse.done.await(arguments.number("timeout", 120), TimeUnit.SECONDS);
            consumer.shutdown();
            System.out.println(new JSONObject()
                    .fluentPut("refused", refuse.first.get())
                    .fluentPut("again", refuse.again.get()));
            System.exit(complete ? 0 : 1);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private DefaultMQPushConsumer start(Arguments arguments) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(arguments.required("group"));
        consumer.setNamesrvAddr(arguments.required("name-server"));
        consumer.setInstanceName(UUID.randomUUID().toString());
        consumer.setMqClientApiTimeout(30_000); // a loaded machine is no reason to fail
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMaxReconsumeTimes(1000); // nothing is to end as a dead letter of the group
        consumer.setAwaitTerminationMillisWhenShutdown(30_000); // otherwise a running listener is interrupted
        consumer.subscribe(arguments.required("topic"), arguments.has("tags") ? arguments.required("tags") : "*");
        consumer.registerMessageListener((MessageListenerConcurrently) this::refuse);
        consumer.start();
        return consumer;
    }

    private ConsumeConcurrentlyStatus refuse(List<MessageExt> messages, ConsumeConcurrentlyContext context) {
        for (MessageExt message : messages) {
            if (message.getReconsumeTimes() > 0) {
                again.incrementAndGet();
            } else if (first.incrementAndGet() == wanted) {
                done.countDown();
            }
        }
        context.setDelayLevelWhenNextConsume(1);
        return ConsumeConcurrentlyStatus.RECONSUME_LATER;
    }
}
