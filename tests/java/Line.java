import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONObject;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import org.apache.rocketmq.common.message.Message;

/** One message as a JSON line: topic, tag, keys, body or body_base64, and optionally queue, queues, compression. */
final class Line {
    final Message message;
    /** The queue id to send to; null leaves the choice to the producer. */
    final Integer queue;
    /** The queue count of a topic that this message creates; null for the producer's default. */
    final Integer queues;
    /** ZLIB, LZ4 or ZSTD forces compression whatever the length; null for the producer's default. */
    final String compression;

    Line(String text) {
        JSONObject fields = JSON.parseObject(text);
        String base64 = fields.getString("body_base64");
        byte[] body = base64 == null
                ? fields.getString("body").getBytes(StandardCharsets.UTF_8)
                : Base64.getDecoder().decode(base64);
        message = new Message(fields.getString("topic"), fields.getString("tag"), fields.getString("keys"), body);
        queue = fields.getInteger("queue");
        queues = fields.getInteger("queues");
        compression = fields.getString("compression");
    }
}
