import java.util.List;
import java.util.UUID;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageQueue;

/** Producers as these programs use them. */
final class Producers {
    private Producers() {}

    /** A started producer; {@code queues} is the queue count of the topics that its sends create. */
    static DefaultMQProducer start(String nameServer, int queues) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("jst_test_publisher");
        producer.setNamesrvAddr(nameServer);
        producer.setInstanceName(UUID.randomUUID().toString());
        producer.setDefaultTopicQueueNums(queues);
        producer.setSendMsgTimeout(30_000); // a loaded machine is no reason to fail
        producer.setMqClientApiTimeout(30_000);
        producer.setRetryTimesWhenSendFailed(0); // a retry after a lost answer would publish twice, unseen
        producer.setVipChannelEnabled(false);
        producer.start();
        return producer;
    }

    /** The queue with this id, wherever it stands in the list. */
    static MessageQueue queue(List<MessageQueue> queues, int id) {
        for (MessageQueue queue : queues) {
            if (queue.getQueueId() == id) {
                return queue;
            }
        }
        throw new IllegalArgumentException("the topic has no queue " + id + ", only " + queues.size() + " queues");
    }
}
