import com.pixelmed.dicom.AttributeList;
import com.pixelmed.dicom.AttributeTag;
import com.pixelmed.dicom.CodeStringAttribute;
import com.pixelmed.dicom.PersonNameAttribute;
import com.pixelmed.dicom.SOPClass;
import com.pixelmed.dicom.StoredFilePathStrategy;
import com.pixelmed.dicom.TagFromName;
import com.pixelmed.dicom.UniqueIdentifierAttribute;
import com.pixelmed.network.FindSOPClassSCU;
import com.pixelmed.network.GetSOPClassSCU;
import com.pixelmed.network.IdentifierHandler;
import com.pixelmed.network.MoveSOPClassSCU;
import com.pixelmed.network.ReceivedObjectHandler;
import com.pixelmed.network.StorageSOPClassSCPDispatcher;
import com.pixelmed.network.StorageSOPClassSCU;
import com.pixelmed.network.VerificationSOPClassSCU;
import java.io.File;
import java.util.Set;

/** java Peer.java HOST PORT COMMAND [WORD]...: calls a node, or takes what is sent to it. */
class Peer {
  static class Kept extends ReceivedObjectHandler {
    public void sendReceivedObjectIndication(String file, String syntax, String calling) {}
  }

  static AttributeList study(String uid) throws Exception {
    AttributeList query = new AttributeList();
    CodeStringAttribute level = new CodeStringAttribute(TagFromName.QueryRetrieveLevel);
    level.addValue("STUDY");
    query.put(level);
    UniqueIdentifierAttribute study = new UniqueIdentifierAttribute(TagFromName.StudyInstanceUID);
    study.addValue(uid);
    query.put(study);
    return query;
  }

  static class Printed extends IdentifierHandler {
    public void doSomethingWithIdentifier(AttributeList found) {
      System.out.println("match " + found.get(TagFromName.PatientName).getDelimitedStringValuesOrEmptyString());
    }
  }

  public static void main(String[] words) throws Exception {
    String host = words[0];
    int port = Integer.parseInt(words[1]);
    switch (words[2]) {
      case "echo" -> new VerificationSOPClassSCU(host, port, "DICOMNODE", "PIXELMED", false);
      case "store" ->
          new StorageSOPClassSCU(host, port, "DICOMNODE", "PIXELMED", words[3], words[4], words[5], 0);
      case "find" -> {
        AttributeList query = study(words[3]);
        query.put(new PersonNameAttribute(TagFromName.PatientName));
        new FindSOPClassSCU(host, port, "DICOMNODE", "PIXELMED",
            SOPClass.StudyRootQueryRetrieveInformationModelFind, query, new Printed());
      }
      case "get" ->
        new GetSOPClassSCU(host, port, "DICOMNODE", "PIXELMED",
            SOPClass.StudyRootQueryRetrieveInformationModelGet, study(words[3]), new IdentifierHandler(),
            new File(words[4]), StoredFilePathStrategy.BYSOPINSTANCEUIDINSINGLEFOLDER, new Kept(),
            Set.of(SOPClass.CTImageStorage), true, false, false);
      case "move" ->
        new MoveSOPClassSCU(host, port, "DICOMNODE", "PIXELMED", words[4],
            SOPClass.StudyRootQueryRetrieveInformationModelMove, study(words[3]));
      case "serve" ->
        new StorageSOPClassSCPDispatcher(port, "PIXELMED", new File(words[3]),
            StoredFilePathStrategy.BYSOPINSTANCEUIDINSINGLEFOLDER, new Kept()).run();
      default -> throw new IllegalArgumentException(words[2]);
    }
  }
}
