// Runs serving_default in Java, as a foreign client would: raw float32 files in and out.
// java -cp 'JARS/*' Client.java MODEL IMAGE OUTPUT HEIGHT WIDTH CHANNELS
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.tensorflow.Result;
import org.tensorflow.SavedModelBundle;
import org.tensorflow.ndarray.Shape;
import org.tensorflow.ndarray.buffer.DataBuffers;
import org.tensorflow.types.TFloat32;

public class Client {
  public static void main(String[] args) throws Exception {
    ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(Path.of(args[1])));
    float[] pixels = new float[bytes.remaining() / 4];
    bytes.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(pixels);
    Shape shape =
        Shape.of(1, Long.parseLong(args[3]), Long.parseLong(args[4]), Long.parseLong(args[5]));
    try (SavedModelBundle model = SavedModelBundle.load(args[0], "serve");
        TFloat32 image = TFloat32.tensorOf(shape, DataBuffers.of(pixels));
        Result result = model.function("serving_default").call(Map.of("image", image))) {
      TFloat32 probabilities = (TFloat32) result.get("probabilities").get();
      float[] values = new float[(int) probabilities.size()];
      probabilities.copyTo(DataBuffers.of(values, false, false));
      ByteBuffer out = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
      out.asFloatBuffer().put(values);
      Files.write(Path.of(args[2]), out.array());
    }
  }
}
