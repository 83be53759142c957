// node mpps.cjs HOST PORT SOP_INSTANCE_UID STUDY_INSTANCE_UID STEP_ID
// Creates a performed procedure step, completes it twice and gets it. Prints a line for each
// response ("N-CREATE XXXX") and the status that the step has ("step COMPLETED").
const { Client, Dataset, requests, constants, log } = require("dcmjs-dimse");

log.disableAll?.();
const [host, port, uid, study, stepId] = process.argv.slice(2);
const { SopClass } = constants;
const sopClass = SopClass.ModalityPerformedProcedureStep;

const created = new Dataset({
  PerformedProcedureStepStatus: "IN PROGRESS",
  PerformedProcedureStepID: "PPS1",
  PerformedStationAETitle: "DCMJS",
  PerformedProcedureStepStartDate: "20261121",
  PerformedProcedureStepStartTime: "093000",
  Modality: "CT",
  PatientName: "DOE^JANE",
  PatientID: "P1",
  ScheduledStepAttributesSequence: [{ StudyInstanceUID: study, ScheduledProcedureStepID: stepId, AccessionNumber: "A1" }],
});
const completed = new Dataset({
  PerformedProcedureStepStatus: "COMPLETED",
  PerformedProcedureStepEndDate: "20261121",
  PerformedProcedureStepEndTime: "094500",
  PerformedSeriesSequence: [{ SeriesInstanceUID: study + ".1", ProtocolName: "Thorax" }],
});

function request(name, made, dataset) {
  if (dataset) made.setDataset(dataset);
  made.on("response", (response) => {
    console.log(`${name} ${response.getStatus().toString(16).padStart(4, "0")}`);
    if (name === "N-GET" && response.hasDataset()) {
      console.log("step " + response.getDataset().getElement("PerformedProcedureStepStatus"));
    }
  });
  return made;
}

const client = new Client();
client.addRequest(request("N-CREATE", new requests.NCreateRequest(sopClass, uid), created));
client.addRequest(request("N-SET", new requests.NSetRequest(sopClass, uid), completed));
client.addRequest(request("N-SET", new requests.NSetRequest(sopClass, uid), completed));
client.addRequest(request("N-GET", new requests.NGetRequest(sopClass, uid, [])));
client.on("networkError", (error) => {
  console.error(error);
  process.exit(1);
});
client.on("associationRejected", () => process.exit(2));
client.on("closed", () => process.exit(0));
client.send(host, Number(port), "DCMJS", "DICOMNODE");
