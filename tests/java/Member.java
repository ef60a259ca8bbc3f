import java.io.FileOutputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * A member of a consumer group that writes down what it gets, until it is killed or stopped by SIGTERM.
 *
 * <p>{@code --name-server host:port --topic T --group G --file F}. F gets {@code start TIME} when the consumer is started
 * and one {@code TIME BROKER QUEUE KEY} per message, TIME in epoch seconds: the peer of tests/bench/member.py.
 */
public final class Member {
    private static OutputStream file;

    public static void main(String[] words) throws Exception {
        try {
            Arguments arguments = new Arguments(words);
            file = new FileOutputStream(Path.of(arguments.required("file")).toFile());
            DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(arguments.required("group"));
            consumer.setNamesrvAddr(arguments.required("name-server"));
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.subscribe(arguments.required("topic"), "*");
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> take(messages));
            Runtime.getRuntime().addShutdownHook(new Thread(consumer::shutdown));
            write("start " + now() + "\n");
            consumer.start();
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private static ConsumeConcurrentlyStatus take(List<MessageExt> messages) {
        StringBuilder lines = new StringBuilder();
        for (MessageExt message : messages) {
            lines.append(now()).append(' ').append(message.getBrokerName()).append(' ').append(message.getQueueId());
            lines.append(' ').append(message.getKeys()).append('\n');
        }
        write(lines.toString());
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
    }

    private static synchronized void write(String text) {
        try {
            file.write(text.getBytes(StandardCharsets.US_ASCII));
        } catch (java.io.IOException failure) {
            throw new java.io.UncheckedIOException(failure);
        }
    }

    private static String now() {
        Instant now = Instant.now();
        return String.format("%d.%06d", now.getEpochSecond(), now.getNano() / 1000);
    }
}
